//! Linux in a snapshot: it goes on, more than once, with the devices that it had and with new ones.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use koya_tests::vm::{Scratch, Vm};
use serde_json::{Value, json};

use crate::guest::{Guest, Kernel};
use crate::running::Running;

/// Counts until it is told to go on, then finds the devices that were not there when it was frozen.
const SCRIPT: &str = "
    echo known > /tmp/known
    (count=0; while sleep 1; do count=$((count + 1)); say count $count; done) &
    read -r _
    kill $!
    for device in /sys/bus/platform/devices/LNRO0005:*; do
        [ -e $device/driver ] || echo ${device##*/} > /sys/bus/platform/drivers/virtio-mmio/bind
    done 2> /dev/null
    say known $(cat /tmp/known)
    say root $(cat /dev/vda | head -c 1048576 | wc -c)
    for serial in /sys/block/vd*/serial; do
        disk=${serial%/serial}
        say disk-$(cat $serial) $(head -c 11 /dev/${disk##*/})
    done
    say processors $(nproc)
    say random $(head -c 8 /dev/hwrng | wc -c)
    say load $(for one in 1 2 3 4; do head -c 1000000 /dev/zero | md5sum & done; wait)
    dmesg | grep -E 'lockup|stall|hung|backwards|BUG:' | while read -r line; do say complaint \"$line\"; done";
/// md5sum of a million zeroes.
const SUM: &str = "879f4bba57ed37c9ec5e5aedf9864698";

/// A monitor whose guest goes on from the snapshot in `files`.
fn fork(files: &Scratch, drives: &Value) -> Running {
    let scratch = Scratch::new();
    let config = json!({
        "snapshot": {
            "snapshot_path": files.path("state"),
            "mem_backend": { "backend_type": "File", "backend_path": files.path("memory") },
        },
        "drives": drives,
        "entropy": {},
    });
    let file = scratch.file("vm.json", config.to_string());
    let socket = scratch.path("api.sock");
    let arguments = [
        OsStr::new("--config-file"),
        file.as_os_str(),
        OsStr::new("--api-sock"),
        socket.as_os_str(),
    ];
    let vm = Vm::start(arguments);
    let metrics = scratch.path("metrics");
    Running::new(vm, scratch, socket, metrics, true)
}

#[test]
fn linux_goes_on_from_a_snapshot_twice_with_new_disks() {
    let files = Scratch::new();
    let guest = Guest::debian_behind_initramfs(Kernel::Ours)
        .section(
            "machine-config",
            json!({ "vcpu_count": 2, "mem_size_mib": 256, "spare_devices": 4 }),
        )
        .section("entropy", json!({}))
        .with_api()
        .script(SCRIPT);
    let mut drives = guest.config()["drives"].clone();
    // The script's disk goes with its guest.
    for drive in drives.as_array_mut().unwrap() {
        let path = drive["path_on_host"].as_str().unwrap().to_owned();
        if Path::new(&path).starts_with(guest.scratch.path("")) {
            let kept = files.path("script");
            fs::copy(path, &kept).unwrap();
            drive["path_on_host"] = json!(kept);
        }
    }
    let guest = guest.start();
    guest.expect("koya-test: count=2\r\n");
    guest.patch("/vm", &json!({ "state": "Paused" }));
    let create = json!({ "snapshot_path": files.path("state"), "mem_file_path": files.path("memory") });
    guest.put("/snapshot/create", &create);
    let before = guest.report().values("count").count();
    drop(guest);
    for name in ["one", "two"] {
        let disk = files.disk(name, 1 << 20);
        let mut contents = fs::read(&disk).unwrap();
        contents[..11].copy_from_slice(format!("contents-{name:.2}").as_bytes());
        fs::write(&disk, contents).unwrap();
        let mut all = drives.clone();
        let new = json!({ "drive_id": name, "path_on_host": disk, "is_root_device": false });
        all.as_array_mut().unwrap().push(new);
        let mut fork = fork(&files, &all);
        fork.expect(&format!("koya-test: count={}\r\n", before + 2));
        fork.go_on();
        let report = fork.finish();
        assert_eq!(report.value("known"), "known");
        assert_eq!(report.value("root"), "1048576");
        assert_eq!(
            report.value(&format!("disk-{name}")),
            format!("contents-{name:.2}")
        );
        assert_eq!(report.value("processors"), "2");
        assert_eq!(report.value("random"), "8");
        assert_eq!(report.value("load").matches(SUM).count(), 4);
        let complaints: Vec<_> = report.values("complaint").collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}
