//! A coarse timer, armed only while something has a deadline.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

/// Shortest and longest time to a tick.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Timer {
    fd: TimerFd,
    armed: bool,
}

impl Timer {
    pub fn new() -> io::Result<Self> {
        let fd = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self { fd, armed: false })
    }

    /// Sees to it that there is a tick to come, or none. `patience` is the shortest time anything is given.
    pub fn set(&mut self, needed: bool, patience: Duration) {
        if needed == self.armed {
            return;
        }
        let delay = patience
            .checked_div(4)
            .unwrap_or_default()
            .clamp(SHORTEST, LONGEST);
        let done = if needed {
            self.fd.reset(delay, None)
        } else {
            self.fd.clear()
        };
        self.armed = needed && done.is_ok();
    }

    /// Takes note of a tick. Disarming does that too, and unlike reading it cannot block when the tick was taken back
    /// since it was reported.
    pub fn acknowledge(&mut self) {
        let _ = self.fd.clear();
        self.armed = false;
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
