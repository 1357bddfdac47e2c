//! The socket over which the container runtime hands over the master of a
//! container's terminal (OCI's `--console-socket`).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::error::{Result, runtime};
use crate::sys::wait_ready;

/// A socket that one terminal comes over; removed when dropped.
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens in a container's folder.
    pub fn listen(folder: &Path) -> Result<Self> {
        let path = folder.join("console.sock");
        // Through a descriptor: a socket's path has at most 107 bytes, an id up to 128.
        let failed = || runtime("listen for the container's terminal");
        let opened = std::fs::File::open(folder).map_err(failed())?;
        let short = format!("/proc/self/fd/{}/console.sock", opened.as_raw_fd());
        let listener = UnixListener::bind(short).map_err(failed())?;
        Ok(Self { listener, path })
    }

    /// Where the runtime finds it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that a runtime which is done has sent.
    pub fn accept(self) -> Result<OwnedFd> {
        self.receive()
            .map_err(runtime("take over the container's terminal"))
    }

    fn receive(&self) -> io::Result<OwnedFd> {
        // It is done: what it sent is there, or never will be.
        let [ready] = wait_ready(
            [(self.listener.as_fd(), PollFlags::POLLIN)],
            Some(std::time::Duration::ZERO),
        )?;
        if ready.is_empty() {
            return Err(io::Error::other("the runtime sent none"));
        }
        let (connection, _) = self.listener.accept()?;
        descriptor(&connection)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn descriptor(connection: &UnixStream) -> io::Result<OwnedFd> {
    let mut buffer = [0; 256];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&raw) = descriptors.first()
        {
            // SAFETY: recvmsg has just made it for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
    Err(io::Error::other("the runtime's message has no descriptor"))
}
