//! Devices of the host, and a container that looks for them: as nodes that its engine has given it, and by their numbers.

use std::fs;
use std::os::unix::fs::MetadataExt;

use koya_tests::vm::Scratch;

use crate::support::{LoopDevice, run};

/// What is written on a disk of the host.
const MARK: &str = "written by the host";
/// Says which nodes are no device of its kernel's, which disks have the mark, and whether the host's KVM can be opened. Its
/// arguments are the disk's numbers.
const SEARCH: &str = r#"
    marked() { head -c 512 "$1" 2> /dev/null | grep -q 'written by the host' && echo "marked ${1%[0-9]*}"; }
    disk="$1 $2"
    for node in /dev/*; do
        if test -b $node; then kind=block; marked $node; elif test -c $node; then kind=char; else continue; fi
        set -- $(stat -L -c '%t %T' $node)
        test -e /sys/dev/$kind/$((0x$1)):$((0x$2)) || echo "foreign $node"
    done
    /bin/busybox mknod /dev/made b $disk && marked /dev/made
    /bin/busybox mknod /dev/made-kvm c 10 232 && (: < /dev/made-kvm) 2> /dev/null && echo 'opened KVM'
    test -c /dev/null && echo looked"#;

/// A disk of the host with a mark, beside its other devices.
pub struct Disk {
    device: LoopDevice,
    _scratch: Scratch,
}

impl Disk {
    pub fn new() -> Self {
        run("modprobe loop");
        let scratch = Scratch::new();
        let file = scratch.disk("disk", 1 << 20);
        fs::write(&file, format!("{MARK:512}")).unwrap();
        assert!(fs::exists("/dev/kvm").unwrap());
        Self {
            device: LoopDevice::of(&file),
            _scratch: scratch,
        }
    }

    /// A program that looks for them.
    pub fn search(&self) -> [String; 6] {
        let number = fs::metadata(self.device.path()).unwrap().rdev();
        let (major, minor) = (libc::major(number), libc::minor(number));
        ["sh", "-c", SEARCH, "sh", &major.to_string(), &minor.to_string()].map(str::to_owned)
    }

    /// What it says where the host's devices are.
    pub const FOUND: &str = "marked /dev/loop\nmarked /dev/made\nopened KVM\nlooked\n";
    /// What it says where they are not.
    pub const NOT_FOUND: &str = "looked\n";
}
