//! Unix sockets whose paths may be longer than a socket's address.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Bytes of an address, the last one being 0 (unix(7)).
const LONGEST: usize = 107;

/// Connects to the socket at `path`.
///
/// # Errors
/// Those of `connect(2)`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, path) = address(path)?;
    UnixStream::connect(path)
}

/// Listens at `path`, in place of whoever did before.
///
/// # Errors
/// Those of `bind(2)`, and of removing what is there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, path) = address(path)?;
    UnixListener::bind(path)
}

/// A path to the same socket that fits; it is good as long as the folder is open.
pub(crate) fn address(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return Ok((None, path.to_owned()));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let folder = File::from(folder);
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((Some(folder), short))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let base = std::env::temp_dir().join(format!("koya-sockets-{}", std::process::id()));
        for folder in [base.clone(), base.join("x".repeat(120))] {
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join("s");
            drop(listen(&path).unwrap());
            // Again, where the last one left its file.
            let listener = listen(&path).unwrap();
            let mut client = connect(&path).unwrap();
            client.write_all(b"hello").unwrap();
            drop(client);
            let mut said = String::new();
            listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
            assert_eq!(said, "hello");
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}
