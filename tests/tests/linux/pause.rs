//! Pause and resume over the API.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::guest::{Guest, Kernel};

/// The kernel looks every four seconds, and complains of a processor that stood still for eight.
const SCRIPT: &str = "
    echo 4 > /proc/sys/kernel/watchdog_thresh
    count=0
    until read -r -t 1 _; do count=$((count + 1)); say count $count; done
    dmesg | grep -iE 'lockup|stall|hung' | while read -r line; do say complaint \"$line\"; done";
const PAUSE: Duration = Duration::from_secs(12);

/// Debian's cloud kernel, which watches for lockups.
#[test]
fn a_paused_guest_stands_still_and_goes_on_without_a_lockup() {
    let guest = Guest::initramfs(Kernel::Cloud).machine(2, 256).with_api();
    let mut guest = guest.script(SCRIPT).start();
    guest.expect("koya-test: count=3\r\n");
    guest.patch("/vm", &json!({ "state": "Paused" }));
    assert_eq!(guest.state(), "Paused");
    // What it said before may be on its way.
    thread::sleep(Duration::from_millis(500));
    let said = guest.report().0;
    thread::sleep(PAUSE);
    assert_eq!(guest.report().0, said, "a paused guest speaks");

    guest.patch("/vm", &json!({ "state": "Resumed" }));
    assert_eq!(guest.state(), "Running");
    let counted = guest.report().values("count").count();
    guest.expect(&format!("koya-test: count={}\r\n", counted + 3));
    guest.go_on();
    let report = guest.finish();
    let counts: Vec<usize> = report
        .values("count")
        .map(|count| count.parse().unwrap())
        .collect();
    assert!(counts.iter().copied().eq(1..=counts.len()), "{counts:?}");
    let complaints: Vec<_> = report.values("complaint").collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
