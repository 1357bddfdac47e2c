//! Where the guest's output goes.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Bytes that go into a pipe or socket without blocking once it is writable at all: PIPE_BUF (pipe(7)).
const CHUNK: usize = 4096;

/// Takes output without ever blocking.
pub trait SerialSink: Send {
    /// Writes as much of `bytes` as fits now; [`io::ErrorKind::WouldBlock`] when nothing does.
    fn write_ready(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// A descriptor that becomes writable when there is room again, if the sink can be full.
    fn fd(&self) -> Option<RawFd>;
}

/// A descriptor, blocking or not: it is asked before each write whether it would block.
///
/// Standard output is often shared with other processes, so it cannot be made non-blocking behind their back.
#[derive(Debug)]
pub struct FdSink {
    file: File,
    chunk: usize,
}

impl FdSink {
    /// A sink that owns `fd`.
    pub fn new(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        // A terminal that is writable promises room for one character.
        let chunk = if file.is_terminal() { 1 } else { CHUNK };
        Self { file, chunk }
    }

    /// The process's standard output.
    pub fn stdout() -> io::Result<Self> {
        use std::os::fd::AsFd;
        Ok(Self::new(io::stdout().as_fd().try_clone_to_owned()?))
    }
}

impl SerialSink for FdSink {
    fn write_ready(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut asked = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one initialised pollfd, as said.
        let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
        if ready < 0 {
            return Err(io::Error::last_os_error());
        }
        if ready == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = bytes.len().min(self.chunk);
        self.file.write(bytes.get(..len).unwrap_or(bytes))
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}
