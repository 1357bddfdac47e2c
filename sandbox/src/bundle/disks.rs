//! Block devices of the host that a bundle names: they become disks of the microVM.
//!
//! ```text
//!  linux.devices: { "type": "b", "major": 8, "minor": 16, "path": "/dev/data" } ─┐
//!  mounts: { "type": "ext4", "source": "/dev/sdb", "destination": "/data" } ─────┴─► a drive; its serial in their place
//! ```
//!
//! Which number a disk has in the guest is the agent's to find, by the serial. A bind mount never becomes a disk, whatever
//! its source is. What the guest mounts nobody else has mounted meanwhile: two kernels that write one file system destroy it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dev, major, makedev, minor};
use serde_json::{Value, json};

use super::BundleError;
use super::config::{Config, wrong};
use crate::sandbox::{Disk, Lent};

/// File systems on a disk that the guest's kernel can mount.
pub(super) const FILE_SYSTEMS: [&str; 5] = ["ext2", "ext3", "ext4", "erofs", "squashfs"];
/// Those of them that nobody writes.
const NEVER_WRITTEN: [&str; 2] = ["erofs", "squashfs"];
/// Each takes one of the 19 interrupts that a microVM has for its devices.
const MOST: usize = 8;

/// What a microVM gets of the host's disks.
#[derive(Debug, Default)]
pub(super) struct Disks {
    all: Vec<(Dev, Disk)>,
    claims: Vec<Claim>,
}

/// Keeps everybody else from mounting a device of the host, as long as it is open.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "it is there to be open")] File);

impl Disks {
    /// All of them, and what keeps those that are mounted for the guest.
    pub fn finish(self) -> (Vec<Disk>, Vec<Claim>) {
        (self.all.into_iter().map(|(_, disk)| disk).collect(), self.claims)
    }

    /// The serial of the host's block device with this number; it can be written if anybody may write it.
    fn serial(&mut self, number: Dev, path: PathBuf, read_only: bool) -> Result<String, BundleError> {
        if let Some((_, disk)) = self.all.iter_mut().find(|(known, _)| *known == number) {
            disk.read_only &= read_only;
            return Ok(disk.serial.clone());
        }
        if self.all.len() >= MOST {
            return Err(BundleError::Unsupported {
                what: format!("more than {MOST} block devices"),
                reason: "a microVM has interrupts for no more",
            });
        }
        let serial = format!("device-{}", self.all.len());
        let disk = Disk {
            serial: serial.clone(),
            path,
            read_only,
        };
        self.all.push((number, disk));
        Ok(serial)
    }

    /// A device of `linux.devices` as the agent is to have it, and so the rules for it; `None` if it is no block device.
    /// Whether it can be written is told by the rules as they `were`.
    pub fn device(
        &mut self,
        device: &Config,
        were: Option<&[Value]>,
        rules: &mut Option<&mut Vec<Value>>,
    ) -> Result<Option<Value>, BundleError> {
        if device.get("type").and_then(Value::as_str) != Some("b") {
            return Ok(None);
        }
        let number = number(device)
            .ok_or_else(|| wrong("linux.devices[].major", device.get("major"), "a device's number"))?;
        let at = device.get("path").and_then(Value::as_str).unwrap_or_default();
        let path = node(number).ok_or_else(|| BundleError::Unsupported {
            what: format!("the block device {}:{} for {at:?}", major(number), minor(number)),
            reason: "this host has no such device, or no name for it in /dev",
        })?;
        let writable = were.is_none_or(|rules| may_write(rules, number));
        let serial = self.serial(number, path, !writable)?;
        let own =
            |rule: &&mut Value| is_of_block(rule) && rule.as_object().and_then(self::number) == Some(number);
        for rule in rules.as_deref_mut().into_iter().flatten().filter(own) {
            rename(rule.as_object_mut(), &serial);
        }
        let mut device = device.clone();
        rename(Some(&mut device), &serial);
        Ok(Some(Value::Object(device)))
    }

    /// A mount of what is on a block device, as the agent is to have it.
    pub fn mount(
        &mut self,
        kind: &str,
        source: &Path,
        destination: &str,
        options: &[&str],
    ) -> Result<Value, BundleError> {
        let failed = |source_error| BundleError::MountSource {
            destination: destination.to_owned(),
            path: source.to_owned(),
            source: source_error,
        };
        let about = fs::metadata(source).map_err(failed)?;
        let refused = |reason| BundleError::Unsupported {
            what: format!("the mount at {destination:?} has type {kind:?} and wants {source:?}"),
            reason,
        };
        if !about.file_type().is_block_device() {
            return Err(refused(
                "it is no block device; mount it on the host, and bind the folder",
            ));
        }
        // By the kernel's own name, where nobody else can put anything.
        let path = node(about.rdev()).ok_or_else(|| refused("the kernel has no name for it in /dev"))?;
        if !self.all.iter().any(|(known, _)| *known == about.rdev()) {
            let claim = File::options().read(true).custom_flags(libc::O_EXCL).open(&path);
            self.claims.push(Claim(claim.map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => refused(
                    "it is mounted, on the host or in another microVM; unmount it there, or mount it on the host and bind the folder",
                ),
                _ => failed(error),
            })?));
        }
        let read_only = options
            .iter()
            .rev()
            .find(|option| matches!(**option, "ro" | "rw"));
        let read_only = read_only == Some(&"ro") || NEVER_WRITTEN.contains(&kind);
        let serial = self.serial(about.rdev(), path, read_only)?;
        Ok(json!({ "destination": destination, "type": kind, "serial": serial, "options": options }))
    }
}

/// Takes out what only this module may say to the agent: the serials of disks, wherever it looks for them.
pub(super) fn strip(config: &mut Config) {
    for_each(config, |entry| {
        entry.remove("serial");
        entry.remove("bytes");
    });
}

/// Has disks be those that a microVM lends to a container that joins it.
pub(super) fn change(config: &mut Config, lent: &BTreeMap<String, Lent>) {
    for_each(config, |entry| {
        let known = entry.get("serial").and_then(Value::as_str);
        if let Some(disk) = known.and_then(|known| lent.get(known)) {
            entry.insert("serial".to_owned(), disk.serial.as_str().into());
            entry.insert("bytes".to_owned(), disk.bytes.into());
        }
    });
}

/// Every entry of a configuration that may name a disk.
fn for_each(config: &mut Config, mut act: impl FnMut(&mut Config)) {
    for pointer in [
        &["mounts"][..],
        &["linux", "devices"],
        &["linux", "resources", "devices"],
    ] {
        let mut place = config.get_mut(pointer.first().copied().unwrap_or_default());
        for name in pointer.iter().skip(1) {
            place = place.and_then(|place| place.get_mut(name));
        }
        let entries = place.and_then(Value::as_array_mut).into_iter().flatten();
        entries.filter_map(Value::as_object_mut).for_each(&mut act);
    }
}

/// Replaces a device's numbers by the serial.
fn rename(entry: Option<&mut Config>, serial: &str) {
    if let Some(entry) = entry {
        entry.remove("major");
        entry.remove("minor");
        entry.insert("serial".to_owned(), serial.into());
    }
}

/// Of a device, or of a rule for one device.
fn number(entry: &Config) -> Option<Dev> {
    let part = |name| u32::try_from(entry.get(name)?.as_i64()?).ok();
    Some(makedev(part("major")?, part("minor")?))
}

/// Whether a rule is only for block devices.
fn is_of_block(rule: &Value) -> bool {
    rule.get("type").and_then(Value::as_str) == Some("b")
}

/// What the rules say of writing to a block device; the last one that fits counts.
fn may_write(rules: &[Value], number: Dev) -> bool {
    let fits = |rule: &&Value| {
        let is = |name, part: u32| {
            let wanted = rule
                .get(name)
                .and_then(Value::as_i64)
                .filter(|wanted| *wanted != -1);
            wanted.is_none_or(|wanted| wanted == i64::from(part))
        };
        let kind = rule.get("type").and_then(Value::as_str).unwrap_or("a");
        let access = rule.get("access").and_then(Value::as_str).unwrap_or("rwm");
        matches!(kind, "a" | "b" | "")
            && is("major", major(number))
            && is("minor", minor(number))
            && access.contains('w')
    };
    let last = rules.iter().rev().find(fits);
    last.is_some_and(|rule| rule.get("allow").and_then(Value::as_bool) == Some(true))
}

/// The node of a block device in `/dev`, by the name that the kernel has for it.
fn node(number: Dev) -> Option<PathBuf> {
    let told = format!("/sys/dev/block/{}:{}/uevent", major(number), minor(number));
    let told = fs::read_to_string(told).ok()?;
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let path = Path::new("/dev").join(name);
    let about = fs::metadata(&path).ok()?;
    (about.file_type().is_block_device() && about.rdev() == number).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Dev {
        makedev(8, 16)
    }

    #[test]
    fn the_last_rule_decides_on_writing() {
        let none = json!({ "allow": false, "access": "rwm" });
        let read = json!({ "allow": true, "type": "b", "major": 8, "minor": 16, "access": "r" });
        let all = json!({ "allow": true, "type": "b", "major": 8, "minor": -1, "access": "rwm" });
        let other = json!({ "allow": true, "type": "b", "major": 8, "minor": 17, "access": "rwm" });
        let pipes = json!({ "allow": true, "type": "c", "access": "rwm" });
        assert!(!may_write(&[], disk()));
        assert!(!may_write(&[none.clone(), read, other, pipes], disk()));
        assert!(may_write(&[none.clone(), all.clone()], disk()));
        assert!(!may_write(&[all, none], disk()));
    }

    #[test]
    fn one_device_is_one_disk_however_often_it_is_named() {
        let mut disks = Disks::default();
        let mut add = |number, read_only| disks.serial(number, "/dev/sdb".into(), read_only);
        assert_eq!(add(disk(), true).unwrap(), "device-0");
        assert_eq!(add(makedev(8, 17), true).unwrap(), "device-1");
        assert_eq!(add(disk(), false).unwrap(), "device-0");
        for number in 0..6 {
            add(makedev(7, number), false).unwrap();
        }
        assert!(
            add(makedev(7, 6), false)
                .unwrap_err()
                .to_string()
                .contains("more than 8")
        );
        let written: Vec<bool> = disks.finish().0.iter().map(|disk| !disk.read_only).collect();
        assert_eq!(written[..3], [true, false, true]);
    }

    #[test]
    fn disks_are_exchanged_wherever_they_are() {
        let mut config = json!({
            "mounts": [{ "serial": "device-1" }, { "destination": "/proc" }],
            "linux": {
                "devices": [{ "serial": "device-0" }],
                "resources": { "devices": [{ "serial": "device-0", "access": "r" }, { "serial": "device-2" }] },
            },
        });
        let disk = |serial: &str, bytes| Lent {
            serial: serial.to_owned(),
            bytes,
        };
        let lent = [
            ("device-0", disk("lent1", 512)),
            ("device-1", disk("lent0", 1024)),
        ];
        let lent = lent.map(|(was, is)| (was.to_owned(), is)).into();
        change(config.as_object_mut().unwrap(), &lent);
        assert_eq!(
            config,
            json!({
                "mounts": [{ "serial": "lent0", "bytes": 1024 }, { "destination": "/proc" }],
                "linux": {
                    "devices": [{ "serial": "lent1", "bytes": 512 }],
                    "resources": { "devices": [
                        { "serial": "lent1", "bytes": 512, "access": "r" },
                        { "serial": "device-2" },
                    ] },
                },
            })
        );
    }

    #[test]
    fn what_the_host_has_not_is_refused() {
        let mut disks = Disks::default();
        let device = json!({ "path": "/dev/x", "type": "b", "major": 4000, "minor": 7 });
        let error = disks
            .device(device.as_object().unwrap(), None, &mut None)
            .unwrap_err();
        assert!(error.to_string().contains("4000:7"), "{error}");
        let file = std::env::temp_dir();
        let error = disks
            .mount("ext4", &file, "/data", &["ro"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no block device"), "{error}");
    }
}
