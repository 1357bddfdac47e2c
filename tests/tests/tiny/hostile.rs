//! "A guest that writes nonsense to every register of every device, rings doorbells without memory behind them and resets
//! devices in the middle of a request leaves the VMM healthy."

use std::thread;
use std::time::{Duration, Instant};

use koya_api::http::Method;
use koya_tests::vm::{PATIENCE, Scratch};
use serde_json::json;

use super::support::process::resident_kib;
use super::support::{Monitor, Netns, drive, interface};

/// How long the API may take to answer while a guest does its worst.
const PROMPT: Duration = Duration::from_secs(1);
/// The acts of resources/tiny/misbehave.c.
const ACTS: usize = 10;

/// Asks until `done`, and sees to it that every answer comes promptly, save for a few when the machine is busy.
fn ask_until(monitor: &Monitor, done: impl Fn() -> bool) -> usize {
    let (mut asked, mut late) = (0, 0);
    let mut client = monitor.client();
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < 3 * PATIENCE,
            "the guest does not end\n{}",
            monitor.vm.transcript()
        );
        let sent = Instant::now();
        match client.get("/") {
            Ok(response) => assert_eq!(response.status, 200),
            // The guest may end while it is asked.
            Err(_) if done() => break,
            Err(_) if !monitor.socket().exists() => break,
            Err(error) => panic!("{error:?}\n{}", monitor.vm.transcript()),
        }
        late += usize::from(sent.elapsed() > PROMPT);
        asked += 1;
        // Short against the quickest guest's whole life, so that every guest is asked about often.
        thread::sleep(Duration::from_millis(2));
    }
    assert!(late <= 2, "{late} of {asked} answers were late");
    asked
}

#[test]
fn a_hostile_driver_leaves_every_device_alive() {
    let (netns, scratch) = (Netns::with_tap(), Scratch::new());
    let mut monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let disk = scratch.disk("disk", 1 << 20);
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.done(
        Method::Put,
        "/network-interfaces/eth0",
        &interface("eth0", "tap0"),
    );
    monitor.done(Method::Put, "/entropy", &json!({}));
    let before = resident_kib(monitor.vm.pid());
    monitor.boot("virtio", "misbehave=all");
    let end = || monitor.vm.console.text().contains("virtio: done");
    let asked = ask_until(&monitor, end);
    assert!(asked > 3, "the API was asked only {asked} times");
    monitor.vm.expect_exit(0);
    let console = monitor.vm.console.text();
    assert!(!console.contains("dead"), "{console}");
    for device in ["block", "net", "entropy"] {
        let alive = console
            .lines()
            .filter(|line| line.starts_with(device) && line.ends_with(": alive"))
            .count();
        assert_eq!(alive, ACTS, "{device}\n{console}");
    }
    let log = monitor.vm.log.text();
    assert!(!log.contains("panicked"), "{log}");
    assert!(before < 64 << 10, "{before} KiB without a guest");
}

/// The engine with io_uring has requests under way when the guest resets the device.
#[test]
fn a_hostile_driver_leaves_an_asynchronous_drive_alive() {
    let scratch = Scratch::new();
    let mut monitor = Monitor::start();
    let mut vda = drive("vda", &scratch.disk("disk", 1 << 20), false);
    vda["io_engine"] = json!("Async");
    vda["cache_type"] = json!("Writeback");
    monitor.done(Method::Put, "/drives/vda", &vda);
    monitor.boot("virtio", "misbehave=all");
    monitor.vm.expect_exit(0);
    let console = monitor.vm.console.text();
    assert_eq!(console.matches(": alive\n").count(), ACTS, "{console}");
    assert!(!console.contains("dead"), "{console}");
}

#[test]
fn doorbells_hammered_while_the_api_is_asked() {
    let mut monitor = Monitor::start();
    monitor.done(Method::Put, "/entropy", &json!({}));
    monitor.boot("doorbell", "n=40000");
    let end = || monitor.vm.console.text().contains("round trip: end 10000\n");
    let asked = ask_until(&monitor, end);
    assert!(asked > 3, "the API was asked only {asked} times");
    monitor.vm.expect_exit(0);
}

/// Doorbells where no device is: every one is an exit to the monitor.
#[test]
fn doorbells_of_no_device() {
    let mut monitor = Monitor::running("doorbell", "n=5000");
    ask_until(&monitor, || {
        monitor.vm.console.text().contains("doorbell: end 5000\n")
    });
    monitor.vm.expect_exit(0);
    assert_eq!(monitor.vm.log.text(), "");
}

/// The PC's own devices, the interrupt controller, and all the places where nothing is.
#[test]
fn nonsense_in_every_register_of_the_legacy_devices() {
    let mut monitor = Monitor::running("nonsense", "");
    ask_until(&monitor, || monitor.vm.console.text().contains("nonsense: done"));
    monitor.vm.expect_exit(0);
    assert_eq!(monitor.vm.log.text(), "");
}
