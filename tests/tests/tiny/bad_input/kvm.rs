//! Hosts whose KVM cannot be used.

use std::process::Command;

use koya_api::http::Method;
use koya_tests::vm::{self, Scratch};
use serde_json::json;

use super::{assert_names, refusal};
use crate::support::{Monitor, boot, config};

/// A command that runs the monitor where /dev is as `script` makes it, and nobody else sees it.
fn with_dev(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec"])
        .arg(format!("{script}\nexec \"$0\" \"$@\""))
        .arg(vm::vmm_binary());
    command
}

fn refused_on(command: impl Fn() -> Command, names: &[&str]) {
    let scratch = Scratch::new();
    let file = scratch.file("vm.json", config("hello", "", json!({})).to_string());
    let socket = scratch.path("api.sock");
    let line = refusal(|| {
        let mut command = command();
        command
            .arg("--api-sock")
            .arg(&socket)
            .arg("--config-file")
            .arg(&file);
        command
    });
    assert_names(&line, names);
    assert!(!socket.exists());

    let monitor = Monitor::within(command(), Scratch::new(), &[]);
    monitor.done(Method::Put, "/boot-source", &boot("hello", ""));
    for _ in 0..2 {
        let start = json!({ "action_type": "InstanceStart" }).to_string();
        let message = monitor.refused(Method::Put, "/actions", &start);
        assert_names(&message, names);
        assert_eq!(monitor.state(), "Not started");
    }
    assert_eq!(monitor.vm.log.text(), "");
    monitor.terminate();
}

#[test]
fn no_dev_kvm() {
    refused_on(
        || with_dev("mount -t tmpfs none /dev"),
        &["/dev/kvm does not exist", "kvm_amd or kvm_intel"],
    );
}

/// The device file is there, the driver behind it is not.
#[test]
fn a_dev_kvm_without_a_driver() {
    refused_on(
        || with_dev("mount -t tmpfs none /dev; mknod /dev/kvm c 10 254"),
        &["/dev/kvm", "kvm_amd or kvm_intel"],
    );
}

#[test]
fn no_permission_on_dev_kvm() {
    // Root may open everything, unless that power is taken away. The file stands for one that belongs to others.
    let without_power = || {
        let mut command = with_dev(
            "mount -t tmpfs none /dev; touch /dev/kvm; chmod 0 /dev/kvm\n\
             set -- --bounding-set=-dac_override,-dac_read_search -- \"$0\" \"$@\"\n\
             exec setpriv \"$@\"",
        );
        command.env("LC_ALL", "C");
        command
    };
    refused_on(without_power, &["no permission to open /dev/kvm", "group", "kvm"]);
}

/// Something else than KVM is in its place.
#[test]
fn a_dev_kvm_that_is_something_else() {
    refused_on(
        || with_dev("mount -t tmpfs none /dev; touch /dev/kvm"),
        &["/dev/kvm", "KVM"],
    );
}
