//! "1 to 32 vCPUs"; "vCPU threads with a clean kick/pause/resume/stop".

use std::thread;
use std::time::{Duration, Instant};

use koya_api::http::Method;
use koya_tests::vm::PATIENCE;
use serde_json::json;

use super::support::Monitor;
use super::support::process::threads;

fn running(guest: &str, vcpus: u8) -> Monitor {
    let monitor = Monitor::start();
    let machine = json!({ "vcpu_count": vcpus, "mem_size_mib": 128 });
    monitor.done(Method::Put, "/machine-config", &machine);
    monitor.boot(guest, "");
    monitor
}

/// The others wait for the one that boots to start them, which a tiny guest never does.
#[test]
fn vcpus_32_start_pause_resume_and_stop() {
    let monitor = running("spin", 32);
    monitor.vm.expect("spinning\n");
    // Threads get their names a moment after they have begun. KVM itself may have added one of its own.
    let start = Instant::now();
    let named = |names: &[String]| (0..32).all(|index| names.contains(&format!("fc_vcpu {index}")));
    let mut names = threads(monitor.vm.pid());
    while !named(&names) && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
        names = threads(monitor.vm.pid());
    }
    let ours = names.iter().filter(|name| !name.starts_with("kvm-")).count();
    assert!(named(&names) && ours == 33, "{names:?}");
    for _ in 0..3 {
        monitor.change_state("Paused");
        assert_eq!(monitor.state(), "Paused");
        monitor.change_state("Resumed");
        assert_eq!(monitor.state(), "Running");
    }
    monitor.terminate();
}

#[test]
fn vcpus_32_end_with_the_guest() {
    for (guest, code) in [("hello", 0), ("poweroff", 0), ("triple", 1)] {
        let mut monitor = running(guest, 32);
        monitor.vm.expect_exit(code);
    }
}

#[test]
fn every_number_of_vcpus_in_between() {
    for vcpus in [2, 3, 8, 31] {
        let mut monitor = running("hello", vcpus);
        monitor.vm.expect_exit(0);
        assert_eq!(monitor.vm.console.text(), "hello from a tiny guest\n");
    }
}

/// The kick must never be lost: a pause that comes just when the guest is entered or left waits for ever then.
#[test]
fn pauses_are_not_lost_however_often_the_guest_exits() {
    let mut monitor = Monitor::start();
    let machine = json!({ "vcpu_count": 2, "mem_size_mib": 128 });
    monitor.done(Method::Put, "/machine-config", &machine);
    monitor.done(Method::Put, "/entropy", &json!({}));
    monitor.boot("doorbell", "n=100000000");
    monitor.vm.expect("doorbell: begin");
    for _ in 0..200 {
        monitor.change_state("Paused");
        monitor.change_state("Resumed");
    }
    assert_eq!(monitor.state(), "Running");
    assert!(monitor.vm.is_running());
    monitor.terminate();
}
