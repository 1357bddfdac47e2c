//! A host without KVM.

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::runtime::KVM;
use crate::support::{hide_kvm, isolate};

#[test]
fn without_kvm_podman_says_what_to_do() {
    isolate();
    let user = Podman::new();
    hide_kvm();
    let words = ["run", "--rm", "--network", "none", "--name", "web", IMAGE, "true"];
    let said = user.said(&user.both()[1], &words);
    assert_eq!(said.code, Some(126), "{said:?}");
    assert!(said.errors.contains(KVM), "{said:?}");
    until("something is left", is_nothing_left);
    assert_eq!(user.koya(&["ps", "--all", "--quiet"]), "");
}
