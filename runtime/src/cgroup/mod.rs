//! The cgroup of the host that an engine names for a container: the processes behind the microVM are in it, so that what
//! they use is counted there. Limits are the guest's; an engine that sets some on this cgroup limits the microVM with them.
//!
//! ```text
//!  /a/b                 a folder of the tree, which this process makes
//!  SLICE:PREFIX:NAME    PREFIX-NAME.scope in SLICE, which systemd makes (--systemd-cgroup)
//! ```

mod bus;
mod folder;
mod message;
mod scope;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use koya_sandbox::rights;
use serde::{Deserialize, Serialize};

pub use bus::BusError;
use bus::Line;
pub use scope::STOP;
use scope::Scope;

use crate::error::RuntimeError;
use crate::log::Log;

/// Where the tree of cgroup v2 is.
const TREE: &str = "/sys/fs/cgroup";
/// What a microVM needs of a host.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/kvm", "/dev/net/tun"];

/// A cgroup of the host for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cgroup {
    /// One that is made and removed here.
    Folder(PathBuf),
    /// One of systemd's.
    Scope(Scope),
}

impl Cgroup {
    /// The one that this name stands for; `None` if it is no name of one.
    pub fn named(name: &str, systemd: bool) -> Option<Self> {
        if !systemd {
            return folder::path(name).map(Self::Folder);
        }
        // As runc has it.
        let slice = match rights::is_root_of_host() {
            true => "system.slice",
            false => "user.slice",
        };
        Scope::named(name, slice).map(Self::Scope)
    }

    /// Makes it, with this process in it. One that forbids devices is left again: rules for the devices of a container are
    /// none for the microVM that it is in. A folder that cannot be made is only told of, as the container runs all the
    /// same, and what it uses is counted elsewhere.
    ///
    /// # Errors
    /// [`RuntimeError::Scope`]; whoever asks for systemd's has to have it.
    pub fn join(&self, log: &Log) -> Result<(), RuntimeError> {
        let before = own();
        let joined = match self {
            Self::Folder(path) => folder::enter(path),
            Self::Scope(scope) => {
                let begun = Line::open().and_then(|line| scope.begin(line));
                begun.map_err(|source| RuntimeError::Scope("make", scope.to_string(), source))?;
                Ok(())
            }
        };
        let forbids = || DEVICES.iter().any(|device| is_forbidden(device));
        let stays = joined.and_then(|()| match forbids() {
            true => self.leave(before),
            false => Ok(()),
        });
        if let Err(error) = stays {
            log.warn(&format!("cannot join the cgroup {self}: {error}"));
        }
        Ok(())
    }

    /// Goes back to the cgroup `before`, and says why.
    fn leave(&self, before: io::Result<PathBuf>) -> io::Result<()> {
        const WHY: &str = "it, or one above it, forbids devices, which a microVM needs";
        let left = before.and_then(|before| fs::write(before.join("cgroup.procs"), "0"));
        left.map_err(|error| io::Error::other(format!("{WHY}; and it cannot be left: {error}")))?;
        if let Self::Folder(path) = self {
            // An engine may have made it, and want it.
            let _ = fs::remove_dir(path);
        }
        Err(io::Error::other(WHY))
    }

    /// Removes it, when its processes have ended.
    ///
    /// # Errors
    /// [`RuntimeError::Scope`]
    pub fn remove(&self) -> Result<(), RuntimeError> {
        match self {
            Self::Folder(path) => {
                folder::remove(path);
                Ok(())
            }
            Self::Scope(scope) => Line::open()
                .and_then(|line| scope.end(line))
                .map_err(|source| RuntimeError::Scope("end", scope.to_string(), source)),
        }
    }
}

impl std::fmt::Display for Cgroup {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(formatter, "{path:?}"),
            Self::Scope(scope) => scope.fmt(formatter),
        }
    }
}

/// Whether the rules of a cgroup forbid a device: the rights to its file are told otherwise.
fn is_forbidden(device: &str) -> bool {
    let opened = File::options().read(true).write(true).open(device);
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// The cgroup of this process.
fn own() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(|path| Path::new(TREE).join(path))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}
