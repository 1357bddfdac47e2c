//! A one-shot timer with a descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

/// A monotonic timer whose descriptor is readable once it has expired. Reading it never blocks.
#[derive(Debug)]
pub(super) struct Timer(TimerFd);

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed. The library's own constructor lacks TFD_NONBLOCK.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a new timer that nobody else owns.
        Ok(Self(unsafe { TimerFd::from_raw_fd(fd) }))
    }

    /// Expires once after `wait`, instead of whenever it was going to.
    pub(super) fn arm(&mut self, wait: Duration) -> io::Result<()> {
        // Zero would disarm it.
        self.0
            .reset(wait.max(Duration::from_nanos(1)), None)
            .map_err(io::Error::from)
    }

    /// Whether it has expired since it was armed. Says so once.
    pub(super) fn expired(&mut self) -> bool {
        self.0.wait().is_ok_and(|expirations| expirations > 0)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
