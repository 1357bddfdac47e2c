//! What containerd's clients get to know of an error beside its text: a code of gRPC, which `ctr` shows by name at the end.

use super::{Containerd, IMAGE, KOYA};
use crate::runtime::KVM;
use crate::support::hide_kvm;

#[test]
fn errors_have_the_codes_that_clients_of_containerd_look_for() {
    let engine = Containerd::new("");
    let bind = "type=bind,src=/no/such,dst=/x,options=rbind:ro";
    let refused = |options: &[&str], wanted: &str, code: &str| {
        let line = [
            &["run", "--rm", "--runtime", KOYA],
            options,
            &[IMAGE, "refused", "true"],
        ]
        .concat();
        let said = engine.said(&line);
        let message = said.errors.trim_end();
        assert!(
            said.code == Some(1) && message.contains(wanted) && message.contains(&format!(": {code}")),
            "{options:?}: {said:?}"
        );
        engine.is_clean("something is left of what was refused");
    };
    refused(&["--net-host"], "the host's network", "invalid argument");
    refused(
        &["--mount", bind],
        "the mount at \"/x\" wants \"/no/such\"",
        "not found",
    );
    hide_kvm();
    refused(&[], KVM, "failed precondition");
    engine.ends();
}
