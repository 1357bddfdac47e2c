//! "The socket file, taps and threads gone."

use std::fs;
use std::path::PathBuf;

use koya_api::http::Method;
use koya_tests::vm::Scratch;
use serde_json::json;

use super::support::process::descriptors;
use super::support::{Monitor, Netns, drive, interface};

/// The whole machine, started; its guest waits for input.
fn whole_machine(netns: &Netns, scratch: &Scratch) -> Monitor {
    let monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let disk = scratch.path("disk");
    if !disk.exists() {
        scratch.disk("disk", 1 << 20);
    }
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.done(
        Method::Put,
        "/network-interfaces/eth0",
        &interface("eth0", "tap0"),
    );
    monitor.done(Method::Put, "/entropy", &json!({}));
    let socket = monitor.scratch.path("v.sock");
    monitor.done(
        Method::Put,
        "/vsock",
        &json!({ "guest_cid": 3, "uds_path": socket }),
    );
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
    monitor
}

#[test]
fn after_the_end_no_process_socket_or_held_tap_is_left() {
    let (netns, scratch) = (Netns::with_tap(), Scratch::new());
    for round in 0..4 {
        // The next round opens the tap again.
        let mut monitor = whole_machine(&netns, &scratch);
        let pid = monitor.vm.pid();
        match round {
            0 => monitor.vm.type_in(b"q").unwrap(),
            1 => monitor.vm.signal(libc::SIGTERM),
            2 => monitor.vm.signal(libc::SIGHUP),
            _ => {
                monitor.change_state("Paused");
                monitor.vm.signal(libc::SIGINT);
            }
        }
        monitor.vm.wait();
        monitor.assert_no_socket();
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "round {round}");
        let left: Vec<_> = fs::read_dir(monitor.scratch.path("."))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

#[test]
fn a_failed_start_leaves_no_descriptor_behind() {
    let (netns, scratch) = (Netns::with_tap(), Scratch::new());
    let monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let disk = scratch.disk("disk", 1 << 20);
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.done(
        Method::Put,
        "/network-interfaces/eth0",
        &interface("eth0", "tap0"),
    );
    let broken = json!({ "kernel_image_path": scratch.file("kernel", "no kernel") });
    monitor.done(Method::Put, "/boot-source", &broken);
    let start = json!({ "action_type": "InstanceStart" }).to_string();
    let mut counts = Vec::new();
    for _ in 0..5 {
        monitor.refused(Method::Put, "/actions", &start);
        // Connections of the API go a moment after their answers.
        let open = descriptors(monitor.vm.pid());
        counts.push(
            open.iter()
                .filter(|open| !open.display().to_string().starts_with("socket:"))
                .count(),
        );
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    // What the failed start had opened is there for the next.
    monitor.boot("virtio", "");
    monitor.vm.expect("block: the same bytes\n");
    monitor.vm.expect("net: a frame: sent\n");
}

/// Nothing that the monitor opens is inherited by a program that it may start, nor by the guest's console.
#[test]
fn every_descriptor_is_closed_on_exec() {
    let (netns, scratch) = (Netns::with_tap(), Scratch::new());
    let monitor = whole_machine(&netns, &scratch);
    let folder = format!("/proc/{}/fdinfo", monitor.vm.pid());
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // Those that it was born with are somebody else's.
        let target = fs::read_link(format!("/proc/{}/fd/{number}", monitor.vm.pid())).ok();
        if number <= 2 || target == fs::read_link(format!("/proc/self/fd/{number}")).ok() {
            continue;
        }
        let Ok(info) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0, "{number}: {target:?}");
        seen += 1;
    }
    assert!(seen > 10, "{seen} descriptors");
}
