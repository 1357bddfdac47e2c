//! Block devices of the host that a container is given.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{IMAGE, Podman, pids_of};
use crate::support::{LoopDevice, MIB, run, succeed};

/// The magic number of ext4, and where it is (linux/Documentation/filesystems/ext4: superblock).
const MAGIC: &str = "dd if=/dev/data bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1";

/// A disk with a file system that holds `note`.
fn disk(user: &Podman, name: &str) -> LoopDevice {
    run("modprobe --all loop ext4");
    let folder = user.home.path("on-the-disk");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("note"), format!("of {name}\n")).unwrap();
    let file = user.home.disk(name, 8 * MIB);
    succeed(
        Command::new("mkfs.ext4")
            .arg("-q")
            .arg("-d")
            .arg(&folder)
            .arg(&file),
    );
    LoopDevice::of(&file)
}

#[test]
fn a_block_device_is_a_disk_of_the_guest() {
    let user = Podman::new();
    let (written, read) = (disk(&user, "written"), disk(&user, "read"));
    let device = |disk: &LoopDevice, access: &str| format!("{}:/dev/data{access}", disk.path());
    let said = user.same(&[
        "run",
        "--rm",
        "--device",
        &device(&read, ":r"),
        IMAGE,
        "sh",
        "-c",
        &format!("test -b /dev/data && busybox {MAGIC}; echo x > /dev/data; echo $?"),
    ]);
    assert!(
        said.out.contains("53 ef") && said.errors.contains("Operation not permitted"),
        "{said:?}"
    );
    // Each as its own rule says, whatever that of another one is.
    let script = "echo from the guest | dd of=/dev/data bs=512 seek=100 conv=fsync 2>/dev/null; ls -l /dev/data | cut -c1; \
                  cat /sys/block/vd*/ro";
    let said = user.koya(&[
        "run",
        "--rm",
        "--device",
        &device(&written, ""),
        "--device",
        &format!("{}:/dev/other:r", read.path()),
        IMAGE,
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(said, "b\n0\n1\n");
    let bytes = fs::read(user.home.path("written")).unwrap();
    assert!(bytes[51_200..].starts_with(b"from the guest\n"));
}

/// A container that joins another one's microVM brings its disks, which are gone from there when it is.
#[test]
fn a_block_device_joins_a_microvm_that_runs() {
    let user = Podman::new();
    let (written, read) = (disk(&user, "written"), disk(&user, "read"));
    let stays = "trap 'exit 0' TERM; while :; do sleep 1; done";
    let first = [
        "run",
        "--detach",
        "--name",
        "first",
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        stays,
    ];
    user.koya(&first);
    let beside = |device: &str, script: &str| {
        let options = ["run", "--rm", "--network", "container:first", "--device", device];
        user.koya(&[&options[..], &[IMAGE, "busybox", "sh", "-c", script]].concat())
    };
    let lent = "for disk in /sys/block/vd*; do echo $(cat $disk/serial); done | grep lent";
    let writable = format!("{}:/dev/data", written.path());
    let script = "echo from the guest | dd of=/dev/data bs=512 seek=100 conv=fsync 2>/dev/null";
    assert_eq!(beside(&writable, &format!("{script}; {lent}")), "lent0\n");
    let bytes = fs::read(user.home.path("written")).unwrap();
    assert!(bytes[51_200..].starts_with(b"from the guest\n"));
    let readable = format!("{}:/dev/data:r", read.path());
    let said = beside(
        &readable,
        &format!("busybox {MAGIC}; echo x 2>/dev/null > /dev/data || echo refused; {lent}"),
    );
    assert!(
        said.contains("53 ef\nrefused\n") && said.ends_with("lent0\nlent1\n"),
        "{said}"
    );
    // What was taken back is lent again, in the size of what is behind it now.
    let large = user.home.disk("large", 16 * MIB);
    let large = LoopDevice::of(&large);
    let said = beside(
        &format!("{}:/dev/data", large.path()),
        &format!("busybox wc -c < /dev/data; {lent}"),
    );
    assert_eq!(said, format!("{}\nlent0\nlent1\n", 16 * MIB));
    // One that is killed with its monitor gives back when it is deleted, and then nothing that is another one's by now.
    let detached = |name: &str, disk: &LoopDevice| {
        let device = format!("{}:/dev/data", disk.path());
        let options = [
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            "container:first",
            "--device",
            &device,
        ];
        user.koya(&[&options[..], &[IMAGE, "sh", "-c", stays]].concat());
    };
    detached("killed", &large);
    let refused = user.said(
        &user.both()[1],
        &[
            "run",
            "--rm",
            "--network",
            "container:first",
            "--device",
            &format!("{}:/dev/data", large.path()),
            IMAGE,
            "true",
        ],
    );
    assert!(
        refused.errors.contains("another container of it has the device"),
        "{refused:?}"
    );
    let pid = user.koya(&["inspect", "--format", "{{.State.Pid}}", "killed"]);
    crate::support::kill(pid.trim().parse().unwrap(), libc::SIGKILL);
    user.koya(&["rm", "--force", "--time", "0", "killed"]);
    detached("next", &written);
    let size = user.koya(&["exec", "next", "sh", "-c", "busybox wc -c < /dev/data"]);
    assert_eq!(size, format!("{}\n", 8 * MIB));
    user.koya(&["rm", "--force", "--time", "0", "next"]);
    let [vmm] = pids_of("koya-vmm")[..] else {
        panic!("there is one microVM")
    };
    let held: Vec<_> = fs::read_dir(format!("/proc/{vmm}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|path| path.to_string_lossy().starts_with("/dev/loop"))
        .collect();
    assert!(held.is_empty(), "{held:?}");
    user.koya(&["rm", "--force", "--time", "0", "first"]);
}

#[test]
fn a_mount_of_a_block_device_is_mounted_by_the_guest() {
    let user = Podman::new();
    let disk = disk(&user, "disk");
    let bundle = user.home.path("bundle");
    fs::create_dir(&bundle).unwrap();
    let runtime = |words: &[&str]| {
        let mut command = Command::new(user.runtime());
        command
            .arg("--root")
            .arg(user.home.path("states"))
            .args(words)
            .current_dir(&bundle);
        command
    };
    succeed(&mut runtime(&["spec"]));
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["root"]["path"] = user.root().to_str().unwrap().into();
    config["root"]["readonly"] = false.into();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!([
        "sh",
        "-c",
        "cat /data/note; echo back > /data/reply; grep -o ' /data ext4' /proc/mounts"
    ]);
    let mount =
        json!({ "destination": "/data", "type": "ext4", "source": disk.path(), "options": ["noatime"] });
    config["mounts"].as_array_mut().unwrap().push(mount);
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(succeed(&mut runtime(&["run", "web"])), "of disk\n /data ext4\n");
    let dumped = succeed(Command::new("debugfs").args(["-R", "cat /reply", disk.path()]));
    assert_eq!(dumped, "back\n");
    let refused = || {
        let refused = runtime(&["run", "web"]).output().unwrap();
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    };
    // Two kernels on one file system would destroy it.
    let folder = user.home.path("mounted");
    fs::create_dir(&folder).unwrap();
    succeed(Command::new("mount").arg(disk.path()).arg(&folder));
    assert!(refused().contains("it is mounted"));
    succeed(Command::new("umount").arg(&folder));
    // A file of the host is none, whatever it holds.
    let last = config["mounts"].as_array_mut().unwrap().last_mut().unwrap();
    last["source"] = user.home.path("disk").to_str().unwrap().into();
    fs::write(&path, config.to_string()).unwrap();
    let errors = refused();
    assert!(errors.contains("it is no block device"), "{errors}");
}
