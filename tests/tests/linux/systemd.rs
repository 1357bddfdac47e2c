//! Debian with systemd.

use std::process::Command;

use koya_tests::vm::Scratch;
use serde_json::json;

use crate::guest::Guest;
use crate::support::succeed;

#[test]
fn systemd_is_running_and_systemctl_poweroff_ends_with_exit_code_0() {
    let scratch = Scratch::new();
    let disk = Guest::copy_of_disk(&scratch, "KOYA_DISK_SYSTEMD");
    let script = "say state $(systemctl is-system-running); say failed $(systemctl --failed --plain --no-legend | wc -l)";
    let report = Guest::on_disk(&disk)
        .machine(1, 512)
        .script(script)
        .start()
        .finish();
    assert_eq!(
        (report.value("state"), report.number("failed")),
        ("running", 0),
        "{}",
        report.0
    );
}

/// Ctrl-Alt-Del is a key of the guest's keyboard: systemd stops its services and resets the machine.
#[test]
fn send_ctrl_alt_del_shuts_systemd_down_cleanly() {
    let scratch = Scratch::new();
    let disk = Guest::copy_of_disk(&scratch, "KOYA_DISK_SYSTEMD");
    let mut guest = Guest::on_disk(&disk).machine(1, 512).with_api().start();
    guest.expect("root@koya");
    guest.type_in("touch /root/written; echo written-$((1 + 1))\n");
    guest.expect("written-2\r\n");
    guest.put("/actions", &json!({ "action_type": "SendCtrlAltDel" }));
    let report = guest.await_end();
    // What was written is on the disk, which was unmounted.
    let check = succeed(Command::new("e2fsck").arg("-fn").arg(&disk));
    assert!(!check.contains("recovering journal"), "{check}\n{}", report.0);
    let found = succeed(
        Command::new("debugfs")
            .args(["-R", "stat /root/written"])
            .arg(&disk),
    );
    assert!(found.contains("Type: regular"), "{found}");
}
