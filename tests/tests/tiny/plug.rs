//! Drives and network interfaces that join a guest while it runs, by windows that it has to spare.

use koya_api::http::Method;
use koya_tests::vm::Scratch;
use serde_json::{Value, json};

use crate::support::{Monitor, Netns, drive, interface};

/// A guest that looks for devices whenever it is typed to, with windows for `spare` more than it has.
fn running(monitor: &Monitor, spare: u8) {
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "spare_devices": spare });
    monitor.done(Method::Put, "/machine-config", &machine);
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
}

fn refused(monitor: &Monitor, path: &str, body: &Value) -> String {
    monitor.refused(Method::Put, path, &body.to_string())
}

#[test]
fn a_drive_and_an_interface_join_a_guest_that_runs() {
    let netns = Netns::with_tap();
    let mut monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    running(&monitor, 2);
    // It has looked once, and found nothing.
    monitor.vm.type_in(b"v").unwrap();
    monitor.vm.expect("tour: ready\ntour: ready");
    let disk = monitor.scratch.disk("disk", 1 << 20);
    monitor.done(Method::Put, "/drives/a", &drive("a", &disk, false));
    monitor.vm.type_in(b"v").unwrap();
    monitor.vm.expect("block: the same bytes");
    monitor.vm.expect("block: sectors: 2048\n");
    assert!(!monitor.vm.console.text().contains("net"));
    assert_eq!(monitor.get("/machine-config")["spare_devices"], 1);
    // It is a drive like any other.
    let other = monitor.scratch.disk("other", 2 << 20);
    let update = json!({ "drive_id": "a", "path_on_host": other });
    monitor.done(Method::Patch, "/drives/a", &update);
    let card = interface("eth0", "tap0");
    monitor.done(Method::Put, "/network-interfaces/eth0", &card);
    monitor.vm.type_in(b"v").unwrap();
    monitor.vm.expect("net: a frame: sent");
    monitor.vm.expect("block: sectors: 4096\n");
    let config = monitor.get("/vm/config");
    assert_eq!(config["machine-config"].get("spare_devices"), None);
    assert_eq!(config["drives"][0]["path_on_host"], json!(other));
    assert_eq!(config["network-interfaces"][0]["host_dev_name"], "tap0");
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
}

/// They are in a snapshot as if they had been there from the start.
#[test]
fn a_drive_that_has_joined_is_frozen_with_its_guest() {
    let monitor = Monitor::start();
    running(&monitor, 2);
    let disk = monitor.scratch.disk("disk", 1 << 20);
    monitor.done(Method::Put, "/drives/a", &drive("a", &disk, false));
    monitor.change_state("Paused");
    // One may join a guest that stands still.
    monitor.done(Method::Put, "/drives/b", &drive("b", &disk, false));
    let (state, memory) = (monitor.scratch.path("state"), monitor.scratch.path("memory"));
    let create = json!({ "snapshot_path": state, "mem_file_path": memory });
    monitor.done(Method::Put, "/snapshot/create", &create);
    let mut fork = Monitor::start();
    let backend = json!({ "backend_type": "File", "backend_path": memory });
    let load = json!({ "snapshot_path": state, "mem_backend": backend, "resume_vm": true });
    fork.done(Method::Put, "/snapshot/load", &load);
    assert_eq!(fork.get("/vm/config")["drives"].as_array().unwrap().len(), 2);
    fork.vm.type_in(b"v").unwrap();
    fork.vm.expect("block: the same bytes");
    // There are no more windows than there were.
    let fault = refused(&fork, "/drives/c", &drive("c", &disk, false));
    assert!(fault.contains("not supported after starting"), "{fault}");
    fork.vm.type_in(b"q").unwrap();
    fork.vm.expect_exit(0);
}

/// So far a fork had what its config file said; the windows that are left may be filled later.
#[test]
fn a_drive_joins_a_fork() {
    let monitor = Monitor::start();
    running(&monitor, 1);
    monitor.change_state("Paused");
    let (state, memory) = (monitor.scratch.path("state"), monitor.scratch.path("memory"));
    let create = json!({ "snapshot_path": state, "mem_file_path": memory });
    monitor.done(Method::Put, "/snapshot/create", &create);
    let backend = json!({ "backend_type": "File", "backend_path": memory });
    let source = json!({ "snapshot_path": state, "mem_backend": backend });
    let config = monitor.scratch.path("fork.json");
    std::fs::write(&config, json!({ "snapshot": source }).to_string()).unwrap();
    let arguments = ["--config-file", config.to_str().unwrap()];
    let mut fork = Monitor::with(&arguments);
    let disk = fork.scratch.disk("disk", 1 << 20);
    fork.done(Method::Put, "/drives/a", &drive("a", &disk, false));
    fork.vm.type_in(b"v").unwrap();
    fork.vm.expect("block: the same bytes");
    let fault = refused(&fork, "/drives/b", &drive("b", &disk, false));
    assert!(fault.contains("`spare_devices`"), "{fault}");
    fork.vm.type_in(b"q").unwrap();
    fork.vm.expect_exit(0);
}

#[test]
fn without_spare_devices_it_is_as_with_firecracker() {
    let monitor = Monitor::running("spin", "");
    let disk = monitor.scratch.disk("disk", 1 << 20);
    for (path, body) in [
        ("/drives/a", drive("a", &disk, false)),
        ("/network-interfaces/eth0", interface("eth0", "tap0")),
    ] {
        assert_eq!(
            refused(&monitor, path, &body),
            "The requested operation is not supported after starting the microVM."
        );
    }
}

#[test]
fn what_cannot_join_is_named_and_leaves_its_window() {
    let netns = Netns::with_tap();
    let mut monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    running(&monitor, 2);
    let disk = monitor.scratch.disk("disk", 1 << 20);
    monitor.done(Method::Put, "/drives/a", &drive("a", &disk, false));
    let with = |field: &str, value: Value| {
        let mut drive = drive("b", &disk, false);
        drive[field] = value;
        drive
    };
    let interfaces = |tap| interface("eth0", tap);
    for (path, body, what) in [
        (
            "/drives/a",
            drive("a", &disk, false),
            "drive \"a\" is there already",
        ),
        (
            "/drives/b",
            with("is_root_device", json!(true)),
            "`is_root_device` must be false",
        ),
        (
            "/drives/b",
            with("io_engine", json!("Async")),
            "`io_engine` must be `Sync`",
        ),
        (
            "/drives/b",
            with("path_on_host", json!("/nowhere/disk")),
            "does not exist",
        ),
        ("/drives/b", with("path_on_host", json!("/dev")), "directory"),
        (
            "/network-interfaces/eth0",
            interfaces("tap1"),
            "there is no tap `tap1`",
        ),
        ("/network-interfaces/eth0", interfaces("lo"), "`lo` is not a tap"),
        (
            "/network-interfaces/eth0",
            interfaces("a/b"),
            "the name of a tap has 1 to 15 bytes",
        ),
    ] {
        let fault = refused(&monitor, path, &body);
        assert!(fault.contains(what), "{what}: {fault}");
    }
    monitor.done(Method::Put, "/drives/b", &drive("b", &disk, false));
    let fault = refused(&monitor, "/network-interfaces/eth0", &interface("eth0", "tap0"));
    assert!(fault.contains("no window left"), "{fault}");
    assert_eq!(monitor.get("/vm/config")["drives"].as_array().unwrap().len(), 2);
    monitor.vm.type_in(b"vq").unwrap();
    monitor.vm.expect_exit(0);
}

/// With a drive that works by io_uring since the start, others may.
#[test]
fn an_async_drive_joins_where_there_is_one() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1 << 20);
    let mut first = drive("a", &disk, false);
    first["io_engine"] = json!("Async");
    let mut second = first.clone();
    second["drive_id"] = json!("b");
    let mut monitor = Monitor::start();
    monitor.done(Method::Put, "/drives/a", &first);
    running(&monitor, 1);
    monitor.done(Method::Put, "/drives/b", &second);
    monitor.vm.type_in(b"v").unwrap();
    monitor.vm.expect("block: the same bytes");
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
}
