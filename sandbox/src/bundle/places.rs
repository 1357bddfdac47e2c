//! Places in the root file system on which something is mounted: made on the host, as the guest cannot make them where the
//! root refuses writes, which the host enforces.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Absolute, in the container.
    pub path: String,
    /// Whether a file is mounted there, and not a folder.
    pub is_file: bool,
}

/// Makes those that are not there. No link leads out of the root. One that lies below another is on what is mounted
/// there, and not the root's.
pub(super) fn make(root: &Path, places: &[Place]) -> Result<(), (PathBuf, io::Error)> {
    let failed = |path: &Path, errno: Errno| (path.to_owned(), errno.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat2(CWD, root, flags, Mode::empty(), ResolveFlags::empty());
    let opened = opened.map_err(|errno| failed(root, errno))?;
    for (index, place) in places.iter().enumerate() {
        let path = Path::new(&place.path);
        let earlier = places.iter().take(index);
        let is_below = |other: &Place| path.starts_with(&other.path) && path != Path::new(&other.path);
        let mut earlier = earlier;
        if earlier.any(is_below) {
            continue;
        }
        one(&opened, path, place.is_file).map_err(|errno| failed(path, errno))?;
    }
    Ok(())
}

fn one(root: &OwnedFd, path: &Path, is_file: bool) -> Result<(), Errno> {
    let mut so_far = PathBuf::from("/");
    let mut parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut next = parts.next();
    while let Some(part) = next {
        next = parts.next();
        let above = so_far.clone();
        so_far.push(part);
        match inside(root, &so_far, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
            Ok(_) => continue,
        }
        let folder = inside(root, &above, OFlags::PATH | OFlags::DIRECTORY)?;
        let name: &Path = part.as_ref();
        match next.is_none() && is_file {
            true => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                drop(File::from(openat(
                    &folder,
                    name,
                    flags,
                    Mode::from_raw_mode(0o755),
                )?));
            }
            false => mkdirat(&folder, name, Mode::from_raw_mode(0o755))?,
        }
    }
    Ok(())
}

fn inside(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_leads_out_of_the_root() {
        let base = std::env::temp_dir().join(format!("koya-places-{}", std::process::id()));
        let (root, outside) = (base.join("root"), base.join("outside"));
        fs::create_dir_all(root.join("there")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        symlink("/there", root.join("in")).unwrap();
        let place = |path: &str, is_file| Place {
            path: path.to_owned(),
            is_file,
        };
        let places = [
            place("/proc", false),
            place("/proc/sys/deep", false),
            place("/etc/hosts", true),
            place("/in/../in/made", false),
            place("/there", false),
        ];
        make(&root, &places).unwrap();
        make(&root, &places).unwrap();
        assert!(root.join("proc").is_dir() && !root.join("proc/sys").exists());
        assert!(root.join("etc/hosts").is_file());
        assert!(root.join("there/made").is_dir());
        // The link names a folder that the root does not have.
        assert!(make(&root, &[place("/out/made", false)]).is_err());
        assert!(fs::read_dir(&outside).unwrap().next().is_none());
        fs::remove_dir_all(base).unwrap();
    }
}
