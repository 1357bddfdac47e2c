//! The last steps inside a container before its first process runs: what
//! libcontainer leaves to us.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::identity::Identity;

/// Where systemd looks for additions to the unit that remounts the root.
const REMOUNT_FS: &str = "/run/systemd/system/systemd-remount-fs.service.d";

/// Something that is done to a mount of a container when all are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    at: String,
    /// mount(2)'s.
    flags: libc::c_ulong,
    data: String,
}

impl Change {
    /// What mount(2) is to do at a path of the container.
    pub fn new(at: &str, flags: MsFlags, data: &str) -> Self {
        Self {
            at: at.to_owned(),
            flags: flags.bits(),
            data: data.to_owned(),
        }
    }

    /// Whether it is of something at or below a path.
    pub fn is_below(&self, path: &str) -> bool {
        Path::new(&self.at).starts_with(path)
    }

    fn make(&self) -> Result<(), Failure> {
        let none: Option<&str> = None;
        let flags = MsFlags::from_bits_retain(self.flags);
        let data = Some(self.data.as_str()).filter(|data| !data.is_empty());
        mount(none, self.at.as_str(), none, flags, data).map_err(|errno| {
            Failure::runtime(
                &format!("change the mount at {}", self.at),
                &io::Error::from(errno),
            )
        })
    }
}

/// A container's first process, and what makes the container ready for it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Room {
    /// The process object of config.json as the host sent it.
    pub process: serde_json::Value,
    /// Who it is, and which system calls it has.
    pub identity: Identity,
    /// What is left to do to its mounts.
    pub changes: Vec<Change>,
    /// It is a distribution's init.
    pub system: bool,
    /// A small init of ours runs before it; see [`super::init`].
    pub init: bool,
}

impl Room {
    /// Prepares the mounts, as the container's root. libcontainer has made what
    /// config.json names.
    pub fn settle(&self) -> Result<(), Failure> {
        self.changes.iter().try_for_each(Change::make)?;
        if !self.system {
            return Ok(());
        }
        let failed = |act: &'static str| {
            move |errno: nix::errno::Errno| Failure::runtime(act, &io::Error::from(errno))
        };
        let none: Option<&str> = None;
        // What an init, and container engines below it, expect of a root.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)
            .map_err(failed("share the root's mounts"))?;
        // /proc/sys is read-only, so that an init does not take the kernel for its
        // own; but the network namespace is the container's.
        const NET: &str = "/proc/sys/net";
        let bound = mount(Some(NET), NET, none, MsFlags::MS_BIND, none);
        if bound.is_ok() {
            let flags = MsFlags::MS_BIND
                | MsFlags::MS_REMOUNT
                | MsFlags::MS_NOSUID
                | MsFlags::MS_NODEV
                | MsFlags::MS_NOEXEC;
            mount(none, NET, none, flags, none).map_err(failed("make /proc/sys/net writable"))?;
        }
        advise_systemd().map_err(|error| Failure::runtime("write to the container's /run", &error))
    }
}

/// Tells systemd of the one unit that can never work in a user namespace: it
/// remounts the root where fstab names one, and that is the guest's to do.
fn advise_systemd() -> io::Result<()> {
    // Only what goes with the container is written to.
    if statfs("/run").is_ok_and(|run| run.filesystem_type() == TMPFS_MAGIC) {
        fs::create_dir_all(REMOUNT_FS)?;
        let advice = "[Unit]\nConditionVirtualization=!private-users\n";
        fs::write(Path::new(REMOUNT_FS).join("koya.conf"), advice)?;
    }
    Ok(())
}
