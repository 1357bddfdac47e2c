//! Unix sockets, as system calls that never wait.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use libc::{c_int, iovec, sa_family_t, sockaddr_un, socklen_t};

use super::pieces::{Gather, Scatter};

/// A listening socket that goes with its name.
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the name.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`, which must not exist.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let socket = UnixListener::bind(path)?;
        let listener = Self {
            socket,
            identity: identity(path),
            path: path.to_owned(),
        };
        listener.socket.set_nonblocking(true)?;
        Ok(listener)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the guest's connections to `port` go.
    pub(super) fn path_of(&self, port: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }

    /// A waiting client, if there is one.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let (socket, _) = self.socket.accept()?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> c_int {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove_name();
    }
}

impl Listener {
    /// Nobody new finds it from now on.
    pub(super) fn remove_name(&mut self) {
        // Somebody else may have taken the name meanwhile. A name that cannot be removed stays: there is nobody to
        // tell.
        if let Some(ours) = self.identity.take()
            && identity(&self.path) == Some(ours)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A socket that is not connected yet.
pub(in crate::virtio) fn unconnected() -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = check_fd(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: `fd` is a new socket that nobody else owns.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Connects `socket` to whoever listens at `path`. An error of kind `WouldBlock` says that its backlog is full.
pub(in crate::virtio) fn connect(socket: &UnixStream, path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let mut address = sockaddr_un {
        sun_family: libc::AF_UNIX as sa_family_t,
        sun_path: [0; 108],
    };
    // The name ends with a zero.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = byte.cast_signed();
    }
    let len = size_of::<sockaddr_un>() as socklen_t;
    // SAFETY: `address` is a whole socket address of `len` bytes and outlives the call.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    check_fd(result).map(|_| ())
}

/// Copies what waits to be read, without taking it, and returns how many bytes that are; 0 when there will never be any.
pub(in crate::virtio) fn peek(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    receive_flags(socket, bytes, libc::MSG_PEEK)
}

/// Takes bytes from what waits to be read.
pub(super) fn receive(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    receive_flags(socket, bytes, 0)
}

fn receive_flags(socket: &UnixStream, bytes: &mut [u8], flags: c_int) -> io::Result<usize> {
    let (start, len) = (bytes.as_mut_ptr().cast(), bytes.len());
    // SAFETY: `bytes` may be written and outlives the call.
    check_len(unsafe { libc::recv(socket.as_raw_fd(), start, len, flags | libc::MSG_DONTWAIT) })
}

/// Takes bytes from what waits to be read, into the guest's memory. Also says whether that was all there was; not being
/// sure it says no.
pub(super) fn receive_into(socket: &UnixStream, into: &Scatter<'_>) -> io::Result<(usize, bool)> {
    let mut message = message(into.pieces());
    // SAFETY: `message` and its list outlive the call, and a `Scatter` holds pieces that may be written.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = check_len(result)?;
    // A message with descriptors ends a read early. They are dropped, of which MSG_CTRUNC tells.
    let whole = message.msg_flags & libc::MSG_CTRUNC == 0;
    Ok((len, whole && len < into.len()))
}

/// Sends what fits.
pub(super) fn send(socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` outlives the call.
    check_len(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Sends what fits, from the guest's memory.
pub(super) fn send_from(socket: &UnixStream, from: &Gather<'_>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let message = message(from.pieces());
    // SAFETY: `message` and its list outlive the call, and a `Gather` holds pieces that may be read.
    check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

fn message(pieces: &[iovec]) -> libc::msghdr {
    // SAFETY: a `msghdr` of zeroes is one without address, data and control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // Nobody writes to the list.
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len();
    message
}

fn check_fd(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_somebody_else_took_over_is_not_removed() {
        let folder = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let path = folder.as_path().join("v.sock");
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
