//! Network namespaces that have a name: a file on which one is mounted keeps it when no process is in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::FileType;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::kind::Kind;

/// A network namespace cannot be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// It cannot be made.
    #[error("cannot make a network namespace at {path:?}; it takes root")]
    Create {
        /// Where its name was to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not there, or something else is.
    #[error("cannot open the network namespace {path:?}")]
    Open {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be entered.
    #[error("cannot enter the network namespace {path:?}")]
    Enter {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be removed.
    #[error("cannot remove the network namespace {path:?}")]
    Remove {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NamespaceError {
    /// What kind of error it is: the path of one that is to be opened is somebody else's word.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
            Self::Open { .. } => Kind::Invalid,
            Self::Create { .. } | Self::Enter { .. } | Self::Remove { .. } => Kind::Other,
        }
    }
}

/// An open network namespace. It lives at least as long as this does.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    file: File,
}

impl Namespace {
    /// Opens the one at `path`: a mount as `ip netns` and CNI make them, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`NamespaceError::Open`]
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let failed = |source| NamespaceError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        // Anything else would be found out by setns(2), but only when the VMM is on its way.
        let statfs = rustix::fs::fstatfs(&file).map_err(|errno| failed(errno.into()))?;
        if statfs.f_type != NSFS_MAGIC {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_or(0, |stat| stat.st_mode));
            return Err(failed(io::Error::other(format!(
                "it is no namespace but {kind:?} of a file system; {WANTED}"
            ))));
        }
        if !is_of_network(&file).map_err(failed)? {
            return Err(failed(io::Error::other(format!(
                "it is a namespace of another kind; {WANTED}"
            ))));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Makes a new one, with a name that outlives this process. Only its loopback device is in it.
    ///
    /// # Errors
    /// [`NamespaceError::Create`]; nothing is left then. [`NamespaceError::Open`].
    pub fn create(path: &Path) -> Result<Self, NamespaceError> {
        let made = make(path);
        if let Err(source) = made {
            let exists = source.kind() == io::ErrorKind::AlreadyExists;
            if !exists {
                let _ = fs::remove_file(path);
            }
            return Err(NamespaceError::Create {
                path: path.to_owned(),
                source,
            });
        }
        Self::open(path)
    }

    /// Takes the name away from the namespace at `path`, which ends with the last process in it. None there is as wished.
    ///
    /// # Errors
    /// [`NamespaceError::Remove`]
    pub fn remove(path: &Path) -> Result<(), NamespaceError> {
        let failed = |source| NamespaceError::Remove {
            path: path.to_owned(),
            source,
        };
        loop {
            match unmount(path, UnmountFlags::DETACH) {
                Ok(()) => {}
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and number of its file, by which one is known however it is called.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let found = self.file.metadata()?;
        Ok((found.dev(), found.ino()))
    }

    /// Moves the calling thread into it, for good. Makes one system call and touches no memory, so that it may be called
    /// between fork and exec.
    ///
    /// # Errors
    /// That of setns(2).
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Does something in it, on a thread that ends with it.
    ///
    /// # Errors
    /// [`NamespaceError::Enter`]; `work` has not begun then.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let failed = |source| NamespaceError::Enter {
            path: self.path.clone(),
            source,
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    self.enter()?;
                    Ok(work())
                });
            match worker.map_err(failed)?.join() {
                Ok(outcome) => outcome.map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// `NSFS_MAGIC` of the kernel's headers.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `NS_GET_NSTYPE` of the kernel's headers (ioctl_ns(2)).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// What would be right.
const WANTED: &str = "want one of a network, as ip netns add NAME makes at /run/netns/NAME";

/// Whether a namespace is a network's.
fn is_of_network(namespace: &File) -> io::Result<bool> {
    // SAFETY: the call takes no pointer.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) } {
        -1 => Err(io::Error::last_os_error()),
        kind => Ok(kind == libc::CLONE_NEWNET),
    }
}

fn make(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create_new(path)?;
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                // SAFETY: no memory or descriptor is unshared, only the network of this thread, which ends at once.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
                mount_bind("/proc/thread-self/ns/net", path)?;
                Ok(())
            })?;
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_not_opened() {
        for (path, kind) in [
            ("/dev/null", Kind::Invalid),
            ("/no/such/file", Kind::NotFound),
            ("/tmp", Kind::Invalid),
            ("/proc/self/ns/uts", Kind::Invalid),
        ] {
            let error = Namespace::open(Path::new(path)).unwrap_err();
            assert!(matches!(error, NamespaceError::Open { .. }), "{error}");
            assert!(error.to_string().contains(path));
            assert_eq!(error.kind(), kind, "{path}");
        }
        let own = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(own.path(), Path::new("/proc/self/ns/net"));
    }

    #[test]
    fn none_is_removed_twice() {
        Namespace::remove(Path::new("/tmp/no-such-koya-netns")).unwrap();
    }
}
