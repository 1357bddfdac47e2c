//! The files that a container sees, as a mount namespace of the host: its root file system with the volumes in their
//! places. What only exists in the guest, as /proc and tmpfs, is not there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use koya_sandbox::bundle::Plan;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, openat2, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::RuntimeError;

/// Leaves the host's files behind, for good.
///
/// # Errors
/// [`RuntimeError::System`]
pub fn take(plan: &Plan) -> Result<(), RuntimeError> {
    let failed = RuntimeError::system("see the container's files instead of the host's");
    enter(plan).map_err(failed)
}

fn enter(plan: &Plan) -> io::Result<()> {
    // SAFETY: nothing but mounts is unshared: no memory, no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_bind_recursive(&plan.root, &plan.root)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat2(CWD, &plan.root, flags, Mode::empty(), ResolveFlags::empty())?;
    for volume in plan.volumes.iter().skip(1) {
        // A place that the image does not have yet is made by the guest; this view does without.
        if let Ok(place) = inside(&root, &volume.target) {
            let place = format!("/proc/self/fd/{}", place.as_raw_fd());
            match volume.top_only {
                true => mount_bind(&volume.source, &place)?,
                false => mount_bind_recursive(&volume.source, &place)?,
            }
            if volume.read_only
                && let Ok(mounted) = inside(&root, &volume.target)
            {
                let mounted = format!("/proc/self/fd/{}", mounted.as_raw_fd());
                let flags = kept(&mounted)? | MountFlags::BIND | MountFlags::RDONLY;
                mount_remount(&mounted, flags, c"")?;
            }
        }
    }
    fchdir(&root)?;
    pivot_root(".", ".")?;
    // The old root lies above the new one.
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}

/// The options that a mount has: in a user namespace, none may be taken away that somebody above it has set.
fn kept(mounted: &str) -> io::Result<MountFlags> {
    let found = statvfs(mounted)?.f_flag;
    let options = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    ];
    let set = options.into_iter().filter(|(flag, _)| found.contains(*flag));
    Ok(set.fold(MountFlags::empty(), |all, (_, flag)| all | flag))
}

/// A place in the root file system, whose links lead nowhere out of it.
fn inside(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let path = Path::new(path);
    Ok(openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}
