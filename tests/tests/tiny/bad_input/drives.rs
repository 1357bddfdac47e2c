//! Drives.

use std::fs;
use std::process::Command;

use koya_api::http::Method;
use koya_tests::vm::{self, Scratch};
use serde_json::{Value, json};

use super::{assert_healthy, assert_names, refusal, refused};
use crate::support::{Monitor, boot, config, drive};

fn with(drives: &[Value]) -> Value {
    config("hello", "", json!({ "drives": drives }))
}

#[test]
fn two_root_drives() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    refused(
        &with(&[drive("one", &disk, true), drive("two", &disk, true)]),
        &["A root block device already exists!", "\"one\"", "\"two\""],
    );
}

#[test]
fn a_drive_that_is_missing() {
    let scratch = Scratch::new();
    let disk = scratch.path("disk");
    let path = disk.display().to_string();
    refused(
        &with(&[drive("vda", &disk, false)]),
        &["\"vda\"", &path, "does not exist"],
    );
}

#[test]
fn a_drive_that_is_a_directory() {
    refused(
        &with(&[drive("vda", "/usr".as_ref(), false)]),
        &[
            "\"vda\"",
            "/usr is a directory",
            "needs a regular file or a block device",
        ],
    );
}

#[test]
fn a_drive_that_is_a_device_or_a_pipe() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.as_path(), "/dev/zero".as_ref()] {
        refused(
            &with(&[drive("vda", path, false)]),
            &["\"vda\"", &path.display().to_string(), "needs a regular file"],
        );
    }
}

#[test]
fn a_drive_that_is_not_a_multiple_of_512_bytes() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1000);
    refused(
        &with(&[drive("vda", &disk, false)]),
        &["\"vda\"", "1000 bytes", "multiple of 512", "grow it to 1024"],
    );
}

#[test]
fn more_drives_than_interrupts() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    let drives: Vec<_> = (0..64).map(|n| drive(&format!("d{n}"), &disk, false)).collect();
    refused(&with(&drives), &["at most", "devices"]);
}

/// A command that runs the monitor where `folder` is a mount that `options` describe, and nobody else sees it.
fn with_mount(mount: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec"])
        .arg(format!("{mount}; exec \"$0\" \"$@\""))
        .arg(vm::vmm_binary());
    command
}

/// Even root cannot write to a read-only file system.
#[test]
fn a_drive_that_is_read_only() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    fs::create_dir(&folder).unwrap();
    let disk = folder.join("disk");
    fs::write(&disk, [0; 4096]).unwrap();
    let at = folder.display().to_string();
    let mount = format!("mount --bind '{at}' '{at}'; mount -o remount,bind,ro '{at}'");
    let path = disk.display().to_string();
    let names = ["\"vda\"", &path, "`is_read_only`"];

    let file = scratch.file("vm.json", with(&[drive("vda", &disk, false)]).to_string());
    let line = refusal(|| {
        let mut command = with_mount(&mount);
        command.args(["--no-api", "--config-file"]).arg(&file);
        command
    });
    assert_names(&line, &names);

    let monitor = Monitor::within(with_mount(&mount), Scratch::new(), &[]);
    let mut writable = drive("vda", &disk, false);
    let message = monitor.refused(Method::Put, "/drives/vda", &writable.to_string());
    assert_names(&message, &names);
    // Doing what the message says works.
    writable["is_read_only"] = json!(true);
    monitor.done(Method::Put, "/drives/vda", &writable);
    assert_healthy(&monitor);
}

#[test]
fn a_drive_that_is_shorter_later_than_at_start() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 8192);
    let mut monitor = Monitor::start();
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready\n");
    fs::File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(100)
        .unwrap();
    monitor.vm.type_in(b"x").unwrap();
    monitor.vm.expect("tour: ready\nblock: sectors: 16\n");
    // The host grows the file again when the guest writes to it, so that the device is of use again.
    monitor.vm.expect("block: the same bytes\n");
    assert_eq!(monitor.state(), "Running");
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
    let log = monitor.vm.log.text();
    assert!(log.contains("drive vda: cannot read 512 bytes at 0"), "{log}");
}

#[test]
fn disk_full_under_a_running_guest() {
    let scratch = Scratch::new();
    let folder = scratch.path("small");
    fs::create_dir(&folder).unwrap();
    let at = folder.display();
    let mount = format!(
        "mount -t tmpfs -o size=64k none '{at}'; truncate -s 1M '{at}/disk'; \
         head -c 65536 /dev/zero > '{at}/filler' || [ -s '{at}/filler' ]"
    );
    let mut monitor = Monitor::within(with_mount(&mount), Scratch::new(), &[]);
    monitor.done(
        Method::Put,
        "/drives/vda",
        &drive("vda", &folder.join("disk"), false),
    );
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready\n");
    monitor.vm.type_in(b"x").unwrap();
    monitor.vm.expect("block: write: refused\n");
    assert_eq!(monitor.state(), "Running");
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
}

/// A limit on the size of files is a signal to most programs, and an error to a guest.
#[test]
fn a_disk_file_beyond_the_limit_on_file_sizes() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1 << 20);
    let mut command = Command::new("prlimit");
    command.arg("--fsize=4096").arg(vm::vmm_binary());
    let mut monitor = Monitor::within(command, Scratch::new(), &[]);
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.boot("virtio", "");
    monitor.vm.expect("block: write: refused\n");
    monitor.vm.expect_exit(0);
}

/// A drive in place of another closes the other's file.
#[test]
fn a_drive_is_replaced_before_the_start() {
    let scratch = Scratch::new();
    let (old, new) = (scratch.disk("old", 4096), scratch.disk("new", 1 << 20));
    let monitor = Monitor::start();
    for disk in [&old, &new] {
        monitor.done(Method::Put, "/drives/vda", &drive("vda", disk, false));
    }
    let open = crate::support::process::descriptors(monitor.vm.pid());
    assert!(open.contains(&new) && !open.contains(&old), "{open:?}");
    monitor.done(Method::Put, "/boot-source", &boot("virtio", ""));
    monitor.act("InstanceStart");
    monitor.vm.expect("block: sectors: 2048\n");
}
