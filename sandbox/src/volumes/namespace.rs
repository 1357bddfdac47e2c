//! Between fork and exec: the namespace of virtiofsd, and what is mounted in it.
//!
//! Everything is prepared before the fork. What runs after it makes system calls only: another thread of the parent may
//! have held the allocator's lock, or any other, when the process was copied.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::Volume;

/// `MOUNT_ATTR_RDONLY`, `_NOSUID` and `_NODEV` (linux/mount.h).
pub(super) const RDONLY: u64 = 1;
pub(super) const NOSUID: u64 = 2;
pub(super) const NODEV: u64 = 4;
/// Limits of the file system that holds the mount points: it has nothing but their names.
const HOLDER: &CStr = c"mode=0755,size=1m,nr_inodes=1k";

/// What the child was at when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Setting up the process.
    Process,
    /// Its user namespace.
    User,
    /// Its mount namespace.
    Mounts,
    /// The folder in which volumes are put side by side.
    Holder,
    /// The volume with this number.
    Volume(u16),
}

impl Step {
    fn to_bytes(self) -> [u8; 4] {
        let (kind, number) = match self {
            Self::Process => (0, 0),
            Self::User => (1, 0),
            Self::Mounts => (2, 0),
            Self::Holder => (3, 0),
            Self::Volume(number) => (4, number),
        };
        let [low, high] = u16::to_le_bytes(number);
        [kind, 0, low, high]
    }

    /// What a child has told of itself; `None` if it got as far as the program.
    pub(super) fn from_bytes(bytes: [u8; 4]) -> Option<Self> {
        let [kind, _, low, high] = bytes;
        Some(match kind {
            0 => Self::Process,
            1 => Self::User,
            2 => Self::Mounts,
            3 => Self::Holder,
            4 => Self::Volume(u16::from_le_bytes([low, high])),
            _ => return None,
        })
    }
}

/// The only user of a user namespace: root there, somebody outside.
struct OnlyUser {
    users: Vec<u8>,
    groups: Vec<u8>,
}

/// One volume.
pub(super) struct Bind {
    source: CString,
    target: CString,
    is_folder: bool,
    read_only: bool,
    follows: bool,
    top_only: bool,
}

impl Bind {
    /// `source`, where links of the volume's lead, at `target`, below the holder.
    pub(super) fn new(volume: &Volume, source: &Path, target: &Path, is_folder: bool) -> io::Result<Self> {
        Ok(Self {
            source: c_string(source.as_os_str())?,
            target: c_string(target.as_os_str())?,
            is_folder,
            read_only: volume.read_only,
            follows: volume.follows,
            top_only: volume.top_only,
        })
    }
}

/// What a child does before it becomes virtiofsd.
pub(super) struct Plan {
    only_user: Option<OnlyUser>,
    holder: CString,
    binds: Vec<Bind>,
    /// The listening socket, which virtiofsd inherits.
    listener: OwnedFd,
    failure: PipeWriter,
}

impl Plan {
    /// `holder` is an existing folder; `ids` are those of a caller that is not root.
    pub(super) fn new(
        ids: Option<(u32, u32)>,
        holder: &Path,
        binds: Vec<Bind>,
        listener: OwnedFd,
        failure: PipeWriter,
    ) -> io::Result<Self> {
        Ok(Self {
            only_user: ids.map(|(user, group)| OnlyUser {
                users: format!("0 {user} 1\n").into_bytes(),
                groups: format!("0 {group} 1\n").into_bytes(),
            }),
            holder: c_string(holder.as_os_str())?,
            binds,
            listener,
            failure,
        })
    }

    /// The number under which virtiofsd finds its socket.
    pub(super) fn listener(&self) -> i32 {
        self.listener.as_raw_fd()
    }

    /// Makes it so, in the child. Where it failed is written to the pipe.
    pub(super) fn carry_out(&self) -> io::Result<()> {
        self.steps().map_err(|(step, error)| {
            let _ = rustix::io::write(&self.failure, &step.to_bytes());
            error.into()
        })
    }

    fn steps(&self) -> Result<(), (Step, rustix::io::Errno)> {
        let at = |step| move |error| (step, error);
        fcntl_setfd(&self.listener, FdFlags::empty()).map_err(at(Step::Process))?;
        if let Some(only_user) = &self.only_user {
            only_user.become_root().map_err(at(Step::User))?;
        }
        // After the credentials have changed, which would undo it.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Step::Process))?;
        unshare(UnshareFlags::NEWNS).map_err(at(Step::Mounts))?;
        // What the host unmounts must not stay mounted for this process.
        let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(c"/", follow).map_err(at(Step::Mounts))?;
        self.hold().map_err(at(Step::Holder))?;
        for (number, bind) in (0..).zip(&self.binds) {
            bind.mount().map_err(at(Step::Volume(number)))?;
        }
        // The names of the volumes are not the guest's to change.
        set_attributes(&self.holder, RDONLY | NOSUID | NODEV, 0, 0).map_err(at(Step::Holder))
    }

    fn hold(&self) -> rustix::io::Result<()> {
        mount(c"volumes", &*self.holder, c"tmpfs", MountFlags::empty(), HOLDER)
    }
}

impl OnlyUser {
    fn become_root(&self) -> rustix::io::Result<()> {
        unshare(UnshareFlags::NEWUSER)?;
        // Without this an unprivileged process cannot map a group (user_namespaces(7)).
        write(c"/proc/self/setgroups", b"deny")?;
        write(c"/proc/self/uid_map", &self.users)?;
        write(c"/proc/self/gid_map", &self.groups)
    }
}

impl Bind {
    fn mount(&self) -> rustix::io::Result<()> {
        if self.is_folder {
            rustix::fs::mkdir(&*self.target, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::open(&*self.target, flags, Mode::from_raw_mode(0o644))?;
        }
        match self.top_only {
            true => mount_bind(&*self.source, &*self.target)?,
            false => mount_bind_recursive(&*self.source, &*self.target)?,
        }
        let read_only = if self.read_only { RDONLY } else { 0 };
        let recursive = libc::AT_RECURSIVE.cast_unsigned();
        set_attributes(
            &self.target,
            read_only | NOSUID | NODEV,
            propagation(self.follows),
            recursive,
        )
    }
}

/// What is mounted below a volume later does not appear, unless it is to.
pub(super) fn propagation(follows: bool) -> u64 {
    match follows {
        true => libc::MS_SLAVE,
        false => libc::MS_PRIVATE,
    }
}

/// `mount_setattr(2)`: sets attributes, and how mounts propagate unless that is 0.
fn set_attributes(path: &CStr, set: u64, propagation: u64, flags: u32) -> rustix::io::Result<()> {
    change_attributes(CWD.as_raw_fd(), path, set, 0, propagation, flags)
}

/// The same for a mount that is open; attributes of `clear` are taken away.
pub(super) fn set_attributes_of(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    flags: u32,
) -> rustix::io::Result<()> {
    let flags = flags | libc::AT_EMPTY_PATH.cast_unsigned();
    change_attributes(mount.as_raw_fd(), c"", set, clear, propagation, flags)
}

fn change_attributes(
    at: RawFd,
    path: &CStr,
    set: u64,
    clear: u64,
    propagation: u64,
    flags: u32,
) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    // SAFETY: the path is a string with its zero, and `attributes` is a structure of the size that is named; the call
    // only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(rustix::io::Errno::from_raw_os_error(
            io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
        )),
    }
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: only sharing the table of descriptors is something that others may rely on, and that stays as it is.
    unsafe { unshare_unsafe(flags) }
}

fn write(path: &CStr, bytes: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(Into::into)
}
