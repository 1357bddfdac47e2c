//! One process of a container: the child, and its streams.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::children::{Child, Ended};
use crate::error::{Result, invalid, runtime, state};
use crate::streams::{Size, Streams};
use crate::sys::Deadline;

/// Highest signal number of Linux.
const MAX_SIGNAL: u32 = 64;

/// A process that the agent started.
pub struct Process {
    child: Arc<Child>,
    streams: Arc<Streams>,
    oom_kills: u64,
}

impl Process {
    /// A child with its streams connected, and how many processes of its container
    /// had been killed for want of memory before it.
    pub fn new(child: Arc<Child>, streams: Arc<Streams>, oom_kills: u64) -> Self {
        Self {
            child,
            streams,
            oom_kills,
        }
    }

    /// How many processes of its container had been killed for want of memory
    /// before it.
    pub fn oom_kills_before(&self) -> u64 {
        self.oom_kills
    }

    /// Its pid, as long as it lives.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.child.ended()
    }

    /// Readable from its end on, for poll.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.child.event()
    }

    /// Waits for its end and for its output to have gone.
    pub fn wait(&self, deadline: Deadline) -> Option<Ended> {
        let ended = self.child.wait(deadline)?;
        self.streams.wait_drained(deadline).then_some(ended)
    }

    /// Waits for its end alone.
    pub fn wait_end(&self, deadline: Deadline) -> Option<Ended> {
        self.child.wait(deadline)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: u32) -> Result<()> {
        let number = check_signal(signal)?;
        match self.child.signal(number) {
            Ok(true) => Ok(()),
            Ok(false) => Err(state("this process has ended already")),
            Err(error) => Err(runtime(format!("send signal {signal}"))(error)),
        }
    }

    /// Sets its terminal's size.
    pub fn resize(&self, size: Size) -> Result<()> {
        self.streams.resize(size)
    }

    /// Breaks its streams off, so that nobody waits for a client any more.
    pub fn abort_streams(&self) {
        self.streams.abort();
    }
}

/// A number that is a signal's.
pub fn check_signal(signal: u32) -> Result<i32> {
    match i32::try_from(signal) {
        Ok(number) if (1..=MAX_SIGNAL).contains(&signal) => Ok(number),
        _ => Err(invalid(format!(
            "signal {signal} does not exist; want 1 to {MAX_SIGNAL}"
        ))),
    }
}
