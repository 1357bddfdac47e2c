//! What the host does for a disk: bytes and requests, no descriptors.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::buffers::GuestBuffers;

/// What to do at a position of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffers from the disk.
    Read,
    /// Write the buffers to the disk.
    Write {
        /// Done only when the data would survive a crash of the host.
        durable: bool,
    },
    /// Make all writes that were done before this request survive a crash of the host.
    Flush,
}

/// A request, which owns the buffers that it needs.
pub struct Job {
    /// Tells the device which of its requests this is.
    pub tag: u16,
    /// What to do.
    pub operation: Operation,
    /// Position on the disk in bytes; 0 for a flush.
    pub offset: u64,
    /// The guest's side of the transfer; empty for a flush.
    pub buffers: GuestBuffers,
}

/// A request that is over. Its buffers are the device's again.
pub struct Done {
    /// [`Job::tag`].
    pub tag: u16,
    /// Whether it worked. After an error the buffers' unused rest has not been transferred.
    pub result: io::Result<()>,
    /// [`Job::buffers`].
    pub buffers: GuestBuffers,
}

/// The host's side of a disk.
///
/// An asynchronous one keeps a [`Job`] until it is over, signals its [event](BlockBackend::connect) and hands it back
/// from [`reap`](BlockBackend::reap).
/// One that does not returns it from [`submit`](BlockBackend::submit).
pub trait BlockBackend: Send {
    /// Size of the disk in sectors of 512 bytes. Never changes.
    fn sectors(&self) -> u64;

    /// Whether writes are refused by the host.
    fn read_only(&self) -> bool;

    /// Does `job`, or begins with it and returns `None`. The device never lets more than
    /// [`QUEUE_SIZE`](super::QUEUE_SIZE) be in flight.
    fn submit(&mut self, job: Job) -> Option<Done>;

    /// Tells the host that the contents of these bytes are not needed any more. A host that cannot make use of it
    /// ignores it.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Sets these bytes to zero; with `unmap` the host may give their space back.
    /// With `durable` it is done only when that would survive a crash of the host.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool, durable: bool) -> io::Result<()>;

    /// Whether [`submit`](BlockBackend::submit) may leave jobs in flight.
    fn asynchronous(&self) -> bool {
        false
    }

    /// From now on `event` is to be signalled when a job that was in flight is over. Called once, before the first
    /// job, and only for an [asynchronous](BlockBackend::asynchronous) backend.
    fn connect(&mut self, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }

    /// Hands everything submitted so far to the host.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// A job that is over, if there is one.
    fn reap(&mut self) -> Option<Done> {
        None
    }

    /// Starts everything submitted and waits until a job in flight may be over; returns at once when none is in flight.
    fn wait(&mut self) {}
}
