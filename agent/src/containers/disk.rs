//! Disks of the guest, by the serial that virtio-blk reports: never by order or
//! name, and never of a file system that the host did not name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use koya_proto::v1;
use nix::mount::{MsFlags, mount};

use crate::error::{Result, invalid, storage};
use crate::sys::Deadline;
use crate::windows;

const BLOCK: &str = "/sys/block";
/// virtio-blk's serial has at most this many bytes (virtio 1.2 §5.2.6.1).
const LONGEST_SERIAL: usize = 20;
/// A disk that was added a moment ago may not be there yet.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);

/// How disks of a kind are mounted read-only. ext4's journal would be replayed,
/// which writes, even into a read-only mount.
fn options(filesystem: &str, read_only: bool) -> Result<Option<&'static str>> {
    match (filesystem, read_only) {
        ("erofs" | "squashfs", true) | ("ext4", false) => Ok(None),
        ("ext4", true) => Ok(Some("noload")),
        ("erofs" | "squashfs", false) => Err(invalid(format!(
            "a scratch disk's filesystem is '{filesystem}', which cannot be written; want ext4"
        ))),
        _ => Err(invalid(format!(
            "filesystem '{filesystem}' of a disk is unknown; want erofs, squashfs or ext4"
        ))),
    }
}

/// Mounts a disk; answers the folder of it that is meant.
pub fn mount_disk(disk: &v1::Disk, at: &Path, read_only: bool) -> Result<PathBuf> {
    let folder = relative(&disk.folder)?;
    let options = options(&disk.filesystem, read_only)?;
    let device = find_with(&disk.serial, disk.bytes, Path::new(BLOCK))?;
    let act = || format!("mount disk '{}' as {}", disk.serial, disk.filesystem);
    fs::create_dir_all(at).map_err(|error| storage(act(), error))?;
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    if read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(Some(&device), at, Some(disk.filesystem.as_str()), flags, options)
        .map_err(|errno| storage(act(), errno.desc()))?;
    Ok(at.join(folder))
}

/// A path that stays where it starts; symbolic links are not followed by name.
fn relative(folder: &str) -> Result<&Path> {
    let path = Path::new(folder);
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(path);
    }
    Err(invalid(format!(
        "folder '{folder}' of a disk leaves it; want a relative path without '..'"
    )))
}

/// The device node of the disk with a serial, once it has the size in bytes that is meant; 0 is any.
pub fn find(serial: &str, bytes: u64) -> Result<PathBuf> {
    find_with(serial, bytes, Path::new(BLOCK))
}

fn find_with(serial: &str, bytes: u64, block: &Path) -> Result<PathBuf> {
    if serial.is_empty() || serial.len() > LONGEST_SERIAL {
        return Err(invalid(format!(
            "'{serial}' is no disk's serial; want 1 to {LONGEST_SERIAL} bytes"
        )));
    }
    let deadline = Deadline::after(PATIENCE);
    let mut is_new = true;
    loop {
        let names = fs::read_dir(block).map_err(|error| storage("list the guest's disks", error))?;
        for entry in names.flatten() {
            let reported = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            let is_meant = reported.trim_end_matches(['\0', '\n']) == serial;
            is_new &= !is_meant;
            if is_meant && (bytes == 0 || size(&entry.path()) == Some(bytes)) {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        if is_new {
            // It may have come after the boot.
            windows::look_again();
            is_new = false;
            continue;
        }
        if deadline.passed() {
            return Err(storage(
                format!("find disk '{serial}'"),
                match bytes {
                    0 => "no disk of the guest reports this serial".to_owned(),
                    bytes => format!("no disk of the guest reports this serial and {bytes} bytes"),
                },
            ));
        }
        std::thread::sleep(STEP);
    }
}

/// Major and minor number of the disk with a serial, once it has this size.
pub fn device_number(serial: &str, bytes: u64) -> Result<(u32, u32)> {
    let device = find(serial, bytes)?;
    let numbers = fs::metadata(&device).map(|node| node.rdev());
    let numbers = numbers.map_err(|error| storage(format!("look at disk '{serial}'"), error))?;
    Ok((libc::major(numbers), libc::minor(numbers)))
}

/// A disk's size in bytes; the kernel counts in sectors of 512 bytes.
fn size(disk: &Path) -> Option<u64> {
    let sectors: u64 = fs::read_to_string(disk.join("size")).ok()?.trim().parse().ok()?;
    sectors.checked_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_serial() {
        let block = std::env::temp_dir().join(format!("koya-agent-block-{}", std::process::id()));
        for (name, serial) in [("vda", "layer-1\n"), ("vdb", "layer-10")] {
            fs::create_dir_all(block.join(name)).unwrap();
            fs::write(block.join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir_all(block.join("loop0")).unwrap();
        fs::write(block.join("vda/size"), "8\n").unwrap();
        let found = |serial| find_with(serial, 0, &block);
        assert_eq!(found("layer-1").unwrap(), Path::new("/dev/vda"));
        assert_eq!(found("layer-10").unwrap(), Path::new("/dev/vdb"));
        assert!(found("layer").unwrap_err().message.contains("'layer'"));
        assert_eq!(find_with("layer-1", 4096, &block).unwrap(), Path::new("/dev/vda"));
        assert!(
            find_with("layer-1", 512, &block)
                .unwrap_err()
                .message
                .contains("512 bytes")
        );
        assert!(found("").is_err());
        assert!(found("123456789012345678901").is_err());
        fs::remove_dir_all(block).unwrap();
    }

    #[test]
    fn a_folder_stays_on_its_disk() {
        assert_eq!(relative("a/b").unwrap(), Path::new("a/b"));
        assert_eq!(relative("").unwrap(), Path::new(""));
        for bad in ["/etc", "..", "a/../../b", "."] {
            assert!(relative(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_systems_are_named_and_known() {
        assert_eq!(options("ext4", true).unwrap(), Some("noload"));
        assert!(options("erofs", false).unwrap_err().message.contains("want ext4"));
        for unknown in ["", "auto", "vfat"] {
            assert!(options(unknown, true).unwrap_err().message.contains("want erofs"));
        }
    }
}
