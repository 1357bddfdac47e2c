//! The socket's file.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Longest path of a unix socket, in bytes: `sun_path` less the final NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Why the API socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is a file already. Clients match this text.
    #[error("Failed to open the API socket at: {}. Check that it is not already used.", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The path is longer than the system allows for a socket.
    #[error(
        "cannot open the API socket at {path:?}: the path has {length} bytes, and must have 1 to {MAX_SOCKET_PATH}"
    )]
    Length {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The folder does not exist.
    #[error("cannot open the API socket at {path:?}: the folder {folder:?} does not exist, create it first")]
    MissingFolder {
        /// The path.
        path: PathBuf,
        /// The folder it is to be in.
        folder: PathBuf,
    },
    /// Somebody else may create files there.
    #[error("cannot open the API socket at {path:?}: no permission to create files in {folder:?}")]
    NoPermission {
        /// The path.
        path: PathBuf,
        /// The folder it is to be in.
        folder: PathBuf,
    },
    /// Something else is wrong.
    #[error("cannot open the API socket at {path:?}")]
    Other {
        /// The path.
        path: PathBuf,
        /// What.
        #[source]
        source: io::Error,
    },
}

/// The file of a listening socket, removed on drop if it is still the one that was created.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    pub fn bind(path: &Path) -> Result<(UnixListener, Self), BindError> {
        let length = path.as_os_str().as_bytes().len();
        if !(1..=MAX_SOCKET_PATH).contains(&length) {
            return Err(BindError::Length {
                path: path.into(),
                length,
            });
        }
        let listener = UnixListener::bind(path).map_err(|err| explain(path, err))?;
        let file = Self {
            path: path.into(),
            identity: identity(path),
        };
        listener
            .set_nonblocking(true)
            .map_err(|source| BindError::Other {
                path: path.into(),
                source,
            })?;
        Ok((listener, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Whoever removed it in between wanted the same.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|about| (about.dev(), about.ino()))
}

fn explain(path: &Path, err: io::Error) -> BindError {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    };
    let path = path.to_path_buf();
    match err.kind() {
        ErrorKind::AddrInUse => BindError::InUse { path },
        ErrorKind::NotFound => BindError::MissingFolder { path, folder },
        ErrorKind::PermissionDenied => BindError::NoPermission { path, folder },
        _ => BindError::Other { path, source: err },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::tempdir::TempDir;

    fn refused(path: &Path) -> String {
        crate::one_line(&SocketFile::bind(path).unwrap_err())
    }

    #[test]
    fn the_file_goes_with_its_owner() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("api.sock");
        let bound = SocketFile::bind(&path).unwrap();
        assert!(path.exists());
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_somebody_else_stays() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("api.sock");
        let bound = SocketFile::bind(&path).unwrap();
        fs::rename(&path, dir.as_path().join("elsewhere")).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(bound);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn impossible_places_say_what_is_right() {
        let dir = TempDir::new().unwrap();
        let taken = dir.as_path().join("file");
        fs::write(&taken, "").unwrap();
        assert_eq!(
            refused(&taken),
            format!(
                "Failed to open the API socket at: {}. Check that it is not already used.",
                taken.display()
            )
        );
        assert_eq!(
            fs::read_to_string(&taken).unwrap(),
            "",
            "the file in the way stays"
        );
        assert!(refused(&dir.as_path().join("no/api.sock")).contains("does not exist"));
        assert!(refused(&taken.join("api.sock")).contains("Not a directory"));
        assert!(refused(Path::new("")).contains("0 bytes, and must have 1 to 107"));
        assert!(refused(Path::new("/proc/api.sock")).contains("/proc"));
    }

    #[test]
    fn the_longest_path_works_and_one_more_does_not() {
        let dir = TempDir::new().unwrap();
        let room = MAX_SOCKET_PATH
            .checked_sub(dir.as_path().as_os_str().len() + 1)
            .unwrap();
        let path = dir.as_path().join("x".repeat(room));
        assert!(SocketFile::bind(&path).is_ok());
        let longer = dir.as_path().join("x".repeat(room + 1));
        assert!(refused(&longer).contains("108 bytes"));
    }
}
