//! "The same action in a wrong phase gets Firecracker's 400 and message."

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use koya_api::http::Method;
use koya_tests::vm::{self, Scratch};
use serde_json::json;

use crate::support::{Monitor, boot, drive, interface};

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const AFTER: &str = "The requested operation is not supported after starting the microVM.";

#[test]
fn what_needs_a_running_guest_is_refused_before_the_start() {
    let monitor = Monitor::start();
    for (method, path, body) in [
        (Method::Put, "/actions", json!({ "action_type": "FlushMetrics" })),
        (
            Method::Put,
            "/actions",
            json!({ "action_type": "SendCtrlAltDel" }),
        ),
        (Method::Patch, "/vm", json!({ "state": "Paused" })),
        (Method::Patch, "/vm", json!({ "state": "Resumed" })),
        (
            Method::Patch,
            "/drives/vda",
            json!({ "drive_id": "vda", "path_on_host": "/x" }),
        ),
        (
            Method::Patch,
            "/network-interfaces/eth0",
            json!({ "iface_id": "eth0" }),
        ),
    ] {
        assert_eq!(
            monitor.refused(method, path, &body.to_string()),
            BEFORE,
            "{path} {body}"
        );
    }
    monitor.boot("hello", "");
    monitor.vm.expect("hello from a tiny guest");
}

#[test]
fn what_configures_a_guest_is_refused_after_the_start() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    let monitor = Monitor::running("spin", "");
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128 });
    for state in ["Running", "Paused"] {
        for (method, path, body) in [
            (Method::Put, "/actions", json!({ "action_type": "InstanceStart" })),
            (Method::Put, "/boot-source", boot("hello", "")),
            (Method::Put, "/machine-config", machine.clone()),
            (Method::Patch, "/machine-config", json!({ "vcpu_count": 2 })),
            (Method::Put, "/drives/vda", drive("vda", &disk, false)),
            (Method::Put, "/network-interfaces/eth0", interface("eth0", "tap0")),
            (
                Method::Put,
                "/shared-folders/a",
                json!({ "folder_id": "a", "tag": "a", "socket": "s" }),
            ),
            (Method::Put, "/entropy", json!({})),
            (
                Method::Put,
                "/vsock",
                json!({ "guest_cid": 3, "uds_path": scratch.path("v.sock") }),
            ),
            (Method::Put, "/serial", json!({})),
            (Method::Put, "/logger", json!({ "level": "Info" })),
            (
                Method::Put,
                "/metrics",
                json!({ "metrics_path": scratch.path("metrics") }),
            ),
        ] {
            assert_eq!(
                monitor.refused(method, path, &body.to_string()),
                AFTER,
                "{path} {body}"
            );
        }
        assert_eq!(monitor.state(), state);
        monitor.change_state("Paused");
    }
    assert!(
        !scratch.path("metrics").exists(),
        "a refused request has no effect"
    );
    monitor.terminate();
}

#[test]
fn a_start_without_a_kernel_is_refused() {
    let monitor = Monitor::start();
    let start = json!({ "action_type": "InstanceStart" }).to_string();
    let message = monitor.refused(Method::Put, "/actions", &start);
    assert!(
        message.contains("Cannot start microvm without kernel configuration"),
        "{message}"
    );
    assert!(message.contains("kernel_image_path"), "{message}");
    monitor.boot("hello", "");
}

/// The configuration survives a start that failed; only what was wrong has to be said again.
#[test]
fn a_start_that_failed_a_corrected_configuration_a_start_that_works() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1 << 20);
    let mut monitor = Monitor::start();
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.done(Method::Put, "/entropy", &json!({}));
    let machine = json!({ "vcpu_count": 2, "mem_size_mib": 64 });
    monitor.done(Method::Put, "/machine-config", &machine);
    let kernel = scratch.file("kernel", "this is no kernel");
    let wrong = json!({ "kernel_image_path": kernel, "boot_args": "" });
    monitor.done(Method::Put, "/boot-source", &wrong);
    let start = json!({ "action_type": "InstanceStart" }).to_string();
    for _ in 0..3 {
        let message = monitor.refused(Method::Put, "/actions", &start);
        assert!(message.starts_with("Start microvm error"), "{message}");
        assert!(message.contains("not a kernel"), "{message}");
        assert_eq!(monitor.state(), "Not started");
    }
    monitor.boot("virtio", "");
    monitor.vm.expect_exit(0);
    let console = monitor.vm.console.text();
    for line in [
        "virtio: devices: 2\n",
        "block: sectors: 2048\n",
        "block: the same bytes\n",
        "entropy: bytes: 16",
    ] {
        assert!(console.contains(line), "no {line:?}: {console}");
    }
    assert_eq!(monitor.vm.log.text(), "");
}

/// A user who may not have as many threads as vCPUs, and then may.
#[test]
fn a_start_that_failed_for_want_of_threads_works_later() {
    let scratch = Scratch::new();
    std::os::unix::fs::chown(scratch.path(""), Some(54321), None).unwrap();
    let (program, guest) = (scratch.path("koya-vmm"), scratch.path("hello"));
    std::fs::copy(vm::vmm_binary(), &program).unwrap();
    std::fs::copy(vm::tiny("hello"), &guest).unwrap();
    let kvm_group = std::fs::metadata("/dev/kvm").unwrap().gid().to_string();
    let as_user = ["--reuid", "54321", "--regid", &kvm_group, "--clear-groups"];
    let mut command = Command::new("prlimit");
    command
        .args(["--nproc=2:100", "setpriv"])
        .args(as_user)
        .arg(program);
    let mut monitor = Monitor::within(command, scratch, &[]);
    let machine = json!({ "vcpu_count": 4, "mem_size_mib": 64 });
    monitor.done(Method::Put, "/machine-config", &machine);
    let boot = json!({ "kernel_image_path": guest, "boot_args": "" });
    monitor.done(Method::Put, "/boot-source", &boot);
    let start = json!({ "action_type": "InstanceStart" }).to_string();
    for _ in 0..2 {
        let message = monitor.refused(Method::Put, "/actions", &start);
        assert!(message.contains("cannot start the thread of vCPU"), "{message}");
        assert_eq!(monitor.state(), "Not started");
    }
    assert_eq!(monitor.vm.console.text(), "", "no guest has run");
    let pid = monitor.vm.pid().to_string();
    let mut raise = Command::new("setpriv");
    raise
        .args(as_user)
        .args(["prlimit", "--nproc=100:100", "--pid", &pid]);
    let raised = raise.status().unwrap();
    assert!(raised.success());
    monitor.act("InstanceStart");
    monitor.vm.expect_exit(0);
    assert_eq!(monitor.vm.console.text(), "hello from a tiny guest\n");
}

#[test]
fn devices_of_a_running_guest_that_do_not_exist_are_named() {
    let monitor = Monitor::running("spin", "");
    for (path, body) in [
        ("/drives/vdb", json!({ "drive_id": "vdb", "path_on_host": "/x" })),
        ("/network-interfaces/eth7", json!({ "iface_id": "eth7" })),
    ] {
        let message = monitor.refused(Method::Patch, path, &body.to_string());
        assert!(message.contains("Invalid device ID"), "{message}");
        assert!(message.contains("vdb") || message.contains("eth7"), "{message}");
    }
    monitor.terminate();
}

/// Ctrl+Alt+Del waits for a guest that reads its keyboard; one that does not cannot make it pile up.
#[test]
fn ctrl_alt_del_does_not_pile_up() {
    let monitor = Monitor::running("spin", "");
    let press = json!({ "action_type": "SendCtrlAltDel" }).to_string();
    let answers: Vec<_> = (0..50)
        .map(|_| monitor.request(Method::Put, "/actions", Some(&press)))
        .collect();
    assert_eq!(answers[0].status, 204);
    let full = answers
        .iter()
        .find(|answer| answer.status != 204)
        .expect("a bound");
    assert_eq!(full.status, 400);
    assert!(
        full.fault_message()
            .unwrap()
            .contains("keyboard's buffer is full")
    );
    monitor.terminate();
}
