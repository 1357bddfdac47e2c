//! Volumes of a container that comes to a microVM which runs already: they are put beside those that its virtiofsd serves.
//!
//! ```text
//!  host                          mount namespace of virtiofsd          guest
//!  /home/me/src ─copy of the──►  /NAME/0  (what is in NAME is   ──►  /run/koya/shares/volumes/NAME/0
//!                 mount           never the guest's to change)
//! ```
//!
//! The mounts are copied where they are and put down in the other namespace, which takes no name of either in the other
//! (`open_tree(2)`, `move_mount(2)`). A thread does it that has left the host's files behind, so that whatever virtiofsd, or
//! a guest through it, makes of the names there leads nowhere else.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use koya_proto::SHARES;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::namespace::{NODEV, NOSUID, RDONLY, propagation, set_attributes_of};
use super::server::{TAG, source_of, unusable};
use super::{MAX_VOLUMES, Volume, VolumeError};

/// Volumes of one container, served until this is dropped.
#[derive(Debug)]
pub struct LaterVolumes {
    /// That of virtiofsd: its process may have ended, and its number be another's, when this is dropped.
    namespace: File,
    name: String,
}

impl LaterVolumes {
    /// Has the virtiofsd whose process is `server` serve these volumes as well. The guest finds them by their numbers in the
    /// folder [`LaterVolumes::folder`] of `name`, which nobody else may use.
    ///
    /// # Errors
    /// [`VolumeError`]; nothing is left then.
    pub fn add(server: u32, name: &str, volumes: &[Volume]) -> Result<Self, VolumeError> {
        if volumes.len() > MAX_VOLUMES {
            return Err(VolumeError::TooMany(volumes.len()));
        }
        let mut copies = Vec::new();
        for volume in volumes {
            copies.push(Copy::of(volume)?);
        }
        let failed = |source| VolumeError::Later {
            name: name.to_owned(),
            source,
        };
        let added = Self {
            namespace: namespace_of(server).map_err(failed)?,
            name: name.to_owned(),
        };
        // What was begun goes with `added`.
        within(&added.namespace, |root| put_down(root, name, &copies)).map_err(failed)?;
        Ok(added)
    }

    /// A name for the volumes of a container: the guest may remember for a while what it found at one that was used before.
    pub fn name(id: &str) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // None of the numbers by which the first container's volumes are known.
        format!("of-{id}-{:x}", since.as_nanos())
    }

    /// Where the guest finds the volumes of `name`.
    pub fn folder(name: &str) -> String {
        format!("{SHARES}/{TAG}/{name}")
    }

    /// Takes away what was added for `name`, by whomever. None there is as wished.
    ///
    /// # Errors
    /// [`VolumeError::Later`]
    pub fn remove(server: u32, name: &str) -> Result<(), VolumeError> {
        let removed =
            namespace_of(server).and_then(|namespace| within(&namespace, |root| take_away(root, name)));
        removed.map_err(|source| VolumeError::Later {
            name: name.to_owned(),
            source,
        })
    }
}

impl Drop for LaterVolumes {
    fn drop(&mut self) {
        let _ = within(&self.namespace, |root| take_away(root, &self.name));
    }
}

/// A copy of what is mounted somewhere, which nobody sees yet.
struct Copy {
    mount: OwnedFd,
    is_folder: bool,
}

impl Copy {
    fn of(volume: &Volume) -> Result<Self, VolumeError> {
        let (source, is_folder) = source_of(volume)?;
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if !volume.top_only {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let read_only = if volume.read_only { RDONLY } else { 0 };
        let recursive = libc::AT_RECURSIVE.cast_unsigned();
        let copied = open_tree(CWD, &source, flags).and_then(|mount| {
            set_attributes_of(
                mount.as_fd(),
                read_only | NOSUID | NODEV,
                0,
                propagation(volume.follows),
                recursive,
            )?;
            Ok(mount)
        });
        match copied {
            Ok(mount) => Ok(Self { mount, is_folder }),
            Err(errno) => Err(unusable(volume, errno.into())),
        }
    }
}

/// The mount namespace in which a virtiofsd serves.
fn namespace_of(server: u32) -> io::Result<File> {
    File::open(format!("/proc/{}/ns/mnt", innermost(server)))
}

/// Does something where virtiofsd is. `work` is given its root.
fn within<T: Send>(namespace: &File, work: impl FnOnce(&OwnedFd) -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let work = move || {
            // SAFETY: what this thread shares with others of its working directory and root is not touched by it any more.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            work(&openat(CWD, "/", flags, Mode::empty())?)
        };
        let thread = thread::Builder::new()
            .name("volumes".to_owned())
            .spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// virtiofsd serves from a child, in namespaces of its own.
fn innermost(server: u32) -> u32 {
    let mut pid = server;
    // Deeper than it ever is.
    for _ in 0..4 {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let child = children
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok());
        match child {
            Some(child) => pid = child,
            None => break,
        }
    }
    pid
}

fn put_down(root: &OwnedFd, name: &str, copies: &[Copy]) -> io::Result<()> {
    // The guest sees this folder read-only. A copy of its mount is written to, which it does not see.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let writable = open_tree(root, ".", flags)?;
    set_attributes_of(writable.as_fd(), NOSUID | NODEV, RDONLY, 0, 0)?;
    mkdirat(&writable, name, Mode::from_raw_mode(0o755))?;
    let made = below(&writable, Path::new(name))?;
    for (number, copy) in copies.iter().enumerate() {
        let number = number.to_string();
        if copy.is_folder {
            mkdirat(&made, &number, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&made, &number, flags, Mode::from_raw_mode(0o644))?;
        }
        let place = below(root, &PathBuf::from(name).join(&number))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&copy.mount, "", &place, "", flags)?;
    }
    Ok(())
}

fn take_away(root: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let writable = open_tree(root, ".", flags)?;
    set_attributes_of(writable.as_fd(), NOSUID | NODEV, RDONLY, 0, 0)?;
    let made = match below(&writable, Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        made => made?,
    };
    for number in (0..MAX_VOLUMES).map(|number| number.to_string()) {
        let place = PathBuf::from(name).join(&number);
        if below(root, &place).is_err() {
            break;
        }
        match unmount(
            format!("/{}", place.display()),
            UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        ) {
            // It was not mounted yet when it failed.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        if unlinkat(&made, &number, AtFlags::REMOVEDIR) == Err(rustix::io::Errno::NOTDIR) {
            unlinkat(&made, &number, AtFlags::empty())?;
        }
    }
    Ok(unlinkat(&writable, name, AtFlags::REMOVEDIR)?)
}

/// A name of the folder that holds volumes: what is there, whatever a guest would have liked to put in its place.
fn below(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), resolve)?)
}
