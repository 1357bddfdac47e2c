//! Root file systems, which containerd's snapshotters describe and shims mount.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::error::TaskError;
use crate::generated::task::Mount;

/// Mounts on top of each other that are taken away; a snapshotter makes one, rarely two.
const MAX_LAYERS: usize = 32;
/// As much as the kernel takes of a file system's own options: a page, with a 0 at its end.
const MAX_DATA: usize = 4095;
/// How often a busy one is tried before it goes as soon as nobody uses it any more, and the pause between.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Mounts all of them at `target`, one on the other; nothing is left if one fails.
///
/// # Errors
/// [`TaskError::Mount`], [`TaskError::File`]
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<(), TaskError> {
    if mounts.is_empty() {
        return Ok(());
    }
    if mounts.len() > MAX_LAYERS {
        return Err(TaskError::Full(MAX_LAYERS, "mounts"));
    }
    if let Err(error) = fs::create_dir(target)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(TaskError::file("make", target)(error));
    }
    for wanted in mounts {
        if let Err(source) = mount_one(wanted, target) {
            unmount_all(target);
            return Err(TaskError::Mount {
                kind: wanted.type_.clone(),
                from: wanted.source.clone(),
                at: target.to_owned(),
                source,
            });
        }
    }
    Ok(())
}

fn mount_one(wanted: &Mount, target: &Path) -> io::Result<()> {
    let (flags, data) = options(&wanted.options);
    let bind = flags.contains(MountFlags::BIND);
    // Open until it is mounted.
    let (data, _folder) = shorten(data)?;
    let data = CString::new(data)?;
    match bind {
        true => mount(
            &wanted.source,
            target,
            c"",
            flags & (MountFlags::BIND | MountFlags::REC),
            None,
        )?,
        false => mount(
            &wanted.source,
            target,
            wanted.type_.as_str(),
            flags,
            Some(data.as_c_str()),
        )?,
    }
    // A bind mount takes its other flags only from a second call.
    let more = flags.difference(MountFlags::BIND | MountFlags::REC);
    if bind && !more.is_empty() {
        mount_remount(target, more | MountFlags::BIND, c"")?;
    }
    Ok(())
}

/// What options of fstab mean; those that are the file system's own, in one text.
fn options(words: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for word in words {
        match word.as_str() {
            "bind" => flags |= MountFlags::BIND,
            "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            // The kernel's own defaults.
            "" | "defaults" | "rw" | "suid" | "dev" | "exec" | "atime" | "async" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// Makes a text that is too long shorter: the lower folders of an overlay with many layers are beside each other, and can be
/// named from the one that they are in.
fn shorten(data: String) -> io::Result<(String, Option<File>)> {
    let lower = data.split(',').find_map(|word| word.strip_prefix("lowerdir="));
    let Some(lower) = lower.filter(|_| data.len() > MAX_DATA) else {
        return Ok((data, None));
    };
    let common = lower.split(':').reduce(common).unwrap_or_default();
    let Some((folder, _)) = common.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) else {
        return Ok((data, None));
    };
    let open = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(folder)?;
    let short = format!("/proc/self/fd/{}", open.as_raw_fd());
    let names = lower.split(':').map(|path| path.replacen(folder, &short, 1));
    let shorter = data.replace(lower, &names.collect::<Vec<_>>().join(":"));
    Ok((shorter, Some(open)))
}

/// What two paths begin with.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let mut pairs = one.char_indices().zip(other.chars());
    let differs = pairs
        .find(|((_, one), other)| one != other)
        .map(|((index, _), _)| index);
    let end = differs.unwrap_or(one.len().min(other.len()));
    one.get(..end).unwrap_or_default()
}

/// Takes away whatever is mounted at `target`.
pub fn unmount_all(target: &Path) {
    let mut attempts = 0_usize;
    let mut layers = 0_usize;
    while layers < MAX_LAYERS {
        let flags = match attempts < ATTEMPTS {
            true => UnmountFlags::NOFOLLOW,
            false => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
        };
        match unmount(target, flags) {
            Ok(()) => layers = layers.saturating_add(1),
            // A process that served its files may be on its way out.
            Err(Errno::BUSY) if attempts < ATTEMPTS => {
                attempts = attempts.saturating_add(1);
                thread::sleep(PAUSE);
            }
            // There is none, or none any more.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (flags, data) = options(&words(
            "index=off rw nosuid workdir=/w upperdir=/u lowerdir=/a:/b",
        ));
        assert_eq!(flags, MountFlags::NOSUID);
        assert_eq!(data, "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b");
        let (flags, data) = options(&words("rbind ro"));
        assert_eq!(flags, MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY);
        assert_eq!(data, "");
    }

    #[test]
    fn many_layers_fit_and_are_the_same_folders() {
        let base = std::env::temp_dir().join(format!("koya-layers-{}", std::process::id()));
        let base = base.join("a-snapshotter-with-a-name-of-some-length");
        let layers: Vec<_> = (0..120).map(|number| base.join(format!("{number}/fs"))).collect();
        for layer in &layers {
            fs::create_dir_all(layer).unwrap();
        }
        let paths: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let data = format!("workdir=/w,lowerdir={},index=off", paths.join(":"));
        let (shorter, open) = shorten(data.clone()).unwrap();
        assert!(
            data.len() > MAX_DATA && shorter.len() <= MAX_DATA,
            "{}",
            shorter.len()
        );
        let lower = shorter.strip_prefix("workdir=/w,lowerdir=").unwrap();
        let lower = lower.strip_suffix(",index=off").unwrap();
        for (short, layer) in lower.split(':').zip(&layers) {
            assert_eq!(&fs::canonicalize(short).unwrap(), layer);
        }
        assert_eq!(lower.split(':').count(), layers.len());
        drop(open);
        fs::remove_dir_all(base.parent().unwrap()).unwrap();
        // What fits is left as it is.
        let words = "lowerdir=/a:/b".to_owned();
        assert_eq!(shorten(words.clone()).unwrap().0, words);
    }
}
