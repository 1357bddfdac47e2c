//! Places in the root file system on which something is mounted: made on the host, as the guest cannot make them where the
//! root refuses writes, which the host enforces.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// Links on the way to one place: as many as the kernel follows (path_resolution(7)).
const MAX_LINKS: u8 = 40;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Absolute, in the container.
    pub path: String,
    /// Whether a file is mounted there, and not a folder.
    pub is_file: bool,
}

/// Makes those that are not there; where they are, without links on the way. No link leads out of the root. What lies below
/// another place, by its own name or because a link leads there, is on what is mounted there, and not the root's.
pub(super) fn make(root: &Path, places: &[Place]) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let failed = |path: &Path, errno: Errno| (path.to_owned(), errno.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat2(CWD, root, flags, Mode::empty(), ResolveFlags::empty());
    let opened = opened.map_err(|errno| failed(root, errno))?;
    let mut found = Vec::<PathBuf>::new();
    for place in places {
        let path = Path::new(&place.path);
        let place = one(&opened, path, place.is_file, &found).map_err(|errno| failed(path, errno))?;
        found.push(place);
    }
    Ok(found.iter().map(|place| Path::new("/").join(place)).collect())
}

/// Walks down to a place, through links as they lead inside the root, and makes what is missing on the way. A link whose end
/// is not there leads to a place as well: what it names is made, as the image's first program would have done. Nothing is
/// looked at on what is `mounted`.
fn one(root: &OwnedFd, path: &Path, is_file: bool, mounted: &[PathBuf]) -> Result<PathBuf, Errno> {
    // A path of the root without links, and what is still to go, the next step last.
    let mut so_far = PathBuf::new();
    let mut ahead = steps(path);
    let mut links = 0_u8;
    while let Some(step) = ahead.pop() {
        let Some(name) = step else {
            // Above the root is the root.
            so_far.pop();
            continue;
        };
        let there = so_far.join(&name);
        let is_covered = |place: &PathBuf| place != Path::new("") && so_far.starts_with(place);
        if mounted.iter().any(is_covered) {
            so_far = there;
            continue;
        }
        match inside(root, &there, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) if is_link(&found)? => {
                links = links
                    .checked_add(1)
                    .filter(|links| *links <= MAX_LINKS)
                    .ok_or(Errno::LOOP)?;
                let target = readlinkat(&found, "", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    so_far.clear();
                }
                ahead.extend(steps(target));
                continue;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => {
                let folder = inside(root, &so_far, OFlags::PATH | OFlags::DIRECTORY)?;
                add(&folder, name.as_ref(), is_file && ahead.is_empty())?;
            }
            Err(errno) => return Err(errno),
        }
        so_far = there;
    }
    Ok(so_far)
}

/// The steps of a path from its last one to its first: names, and `None` for the folder above.
fn steps(path: &Path) -> Vec<Option<OsString>> {
    let step = |part| match part {
        Component::Normal(name) => Some(Some(name.to_owned())),
        Component::ParentDir => Some(None),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(step).collect()
}

fn is_link(found: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(found)?.st_mode) == FileType::Symlink)
}

/// Makes a file or folder. Somebody who puts a link in its place meanwhile is not followed.
fn add(folder: &OwnedFd, name: &Path, is_file: bool) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    if !is_file {
        return mkdirat(folder, name, mode);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, mode).map(drop)
}

/// Opens what is at a path of the root.
fn inside(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path == Path::new("") {
        Path::new(".")
    } else {
        path
    };
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
        // The link names a folder that the root does not have: it is made where it leads inside the root.
        make(&root, &[place("/out/made", false)]).unwrap();
        assert!(
            root.join(outside.strip_prefix("/").unwrap())
                .join("made")
                .is_dir()
        );
        assert!(fs::read_dir(&outside).unwrap().next().is_none());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_link_whose_end_is_missing_leads_to_a_place() {
        let base = std::env::temp_dir().join(format!("koya-places-links-{}", std::process::id()));
        let root = base.join("root");
        for folder in ["etc", "run", "loop"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (target, link) in [
            // As images with systemd have it.
            ("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf"),
            ("../../../../../up", "etc/above"),
            ("/var/lib/hosts", "etc/hosts"),
            ("hosts", "etc/twice"),
            ("two", "loop/one"),
            ("one", "loop/two"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let place = |path: &str, is_file| Place {
            path: path.to_owned(),
            is_file,
        };
        let places = [
            place("/etc/resolv.conf", true),
            place("/etc/above", true),
            place("/etc/twice", true),
        ];
        for _ in 0..2 {
            make(&root, &places).unwrap();
            assert!(root.join("run/systemd/resolve/stub-resolv.conf").is_file());
            assert!(root.join("var/lib/hosts").is_file());
            // Nothing is above the root.
            assert!(root.join("up").is_file() && !base.join("up").exists());
            assert!(root.join("etc/resolv.conf").is_symlink());
        }
        let (path, error) = make(&root, &[place("/loop/one/deep", false)]).unwrap_err();
        assert_eq!(path, Path::new("/loop/one/deep"));
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        // Below a file there is nothing.
        let (_, error) = make(&root, &[place("/etc/hosts/deep", false)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn what_a_link_puts_on_an_earlier_place_is_not_made_below_it() {
        let base = std::env::temp_dir().join(format!("koya-places-covered-{}", std::process::id()));
        fs::create_dir_all(base.join("etc")).unwrap();
        symlink("run", base.join("var")).unwrap();
        symlink("../var/systemd/resolv.conf", base.join("etc/resolv.conf")).unwrap();
        let place = |path: &str, is_file| Place {
            path: path.to_owned(),
            is_file,
        };
        let places = [place("/run", false), place("/etc/resolv.conf", true)];
        let found = make(&base, &places).unwrap();
        assert_eq!(found, [Path::new("/run"), Path::new("/run/systemd/resolv.conf")]);
        assert!(!base.join("run/systemd").exists());
        // The other way round it is the root's.
        let places = [place("/etc/resolv.conf", true), place("/run", false)];
        make(&base, &places).unwrap();
        assert!(base.join("run/systemd/resolv.conf").is_file());
        fs::remove_dir_all(base).unwrap();
    }
}
