//! A disk in a file or block device whose transfers run while the event loop does other things (`io_engine`
//! `Async`).
//!
//! A request in flight owns all that the kernel may touch: its vectors and, through them, the guest's memory. So
//! neither a reset nor the end of the device takes anything away from the kernel; both wait.
//!
//! Requests are not ordered among each other. That is enough for a flush, which covers the writes that were *finished*
//! when it was sent (virtio 1.2 §5.2.6.2). Discards and write-zeroes are done at once, on the caller's thread.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use vmm_sys_util::eventfd::EventFd;

use super::QUEUE_SIZE;
use super::backend::{BlockBackend, Done, Job, Operation};
use super::error::BlockError;
use super::file::{FileBackend, MAX_VECTORS};

/// RWF_DSYNC: as if the file had been opened with O_DSYNC.
const RWF_DSYNC: i32 = 2;

/// How long to wait for the kernel to have memory again.
const RETRY: Duration = Duration::from_millis(1);

/// A raw disk that works asynchronously.
pub struct UringBackend {
    ring: IoUring,
    file: FileBackend,
    /// Jobs in flight by tag.
    jobs: Vec<Option<Job>>,
    in_flight: usize,
}

impl UringBackend {
    /// Opens the disk at `path` as [`FileBackend::open`] does, with a ring of its own.
    ///
    /// # Errors
    /// Those of [`FileBackend::open`], and [`BlockError::NoUring`] if the kernel offers no io_uring. There is no silent
    /// way back to synchronous transfers: who asks for `Async` relies on it.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let file = FileBackend::open(path, read_only)?;
        let ring = IoUring::new(u32::from(QUEUE_SIZE)).map_err(|source| BlockError::NoUring {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            ring,
            file,
            jobs: Vec::new(),
            in_flight: 0,
        })
    }

    fn entry(&self, job: &Job) -> squeue::Entry {
        let fd = Fd(self.file.fd());
        let vectors = job.buffers.vectors();
        let count = u32::try_from(vectors.len().min(MAX_VECTORS)).unwrap_or(0);
        let entry = match job.operation {
            Operation::Read => opcode::Readv::new(fd, vectors.as_ptr(), count)
                .offset(job.offset)
                .build(),
            Operation::Write { durable } => opcode::Writev::new(fd, vectors.as_ptr(), count)
                .offset(job.offset)
                .rw_flags(if durable { RWF_DSYNC } else { 0 })
                .build(),
            Operation::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        };
        entry.user_data(u64::from(job.tag))
    }

    /// Ends a job of which the kernel says `result`. What the kernel left undone is done here: the end of a short
    /// transfer, and what a signal interrupted.
    fn finish(&self, mut job: Job, result: i32) -> Done {
        let result = match usize::try_from(result) {
            Ok(count) => {
                job.buffers.advance(count);
                job.offset = job.offset.saturating_add(count as u64);
                self.finish_rest(&mut job)
            }
            Err(_) => match result.checked_neg() {
                Some(libc::EINTR | libc::EAGAIN) => {
                    self.file.run(job.operation, job.offset, &mut job.buffers)
                }
                errno => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
            },
        };
        Done {
            tag: job.tag,
            result,
            buffers: job.buffers,
        }
    }

    fn finish_rest(&self, job: &mut Job) -> io::Result<()> {
        if job.buffers.remaining() == 0 {
            return Ok(());
        }
        self.file.run(job.operation, job.offset, &mut job.buffers)
    }
}

impl BlockBackend for UringBackend {
    fn sectors(&self) -> u64 {
        self.file.sectors()
    }

    fn read_only(&self) -> bool {
        self.file.read_only()
    }

    fn submit(&mut self, job: Job) -> Option<Done> {
        let index = usize::from(job.tag);
        if self.jobs.len() <= index {
            self.jobs.resize_with(index.saturating_add(1), || None);
        }
        let entry = self.entry(&job);
        // As the device keeps to the number of jobs in flight, there is room for each, and their tags differ.
        let refused = match self.jobs.get_mut(index) {
            Some(slot @ None) => {
                *slot = Some(job);
                // SAFETY: what the entry points to belongs to the job, which stays where it is until the kernel says
                // that it is over.
                match unsafe { self.ring.submission().push(&entry) } {
                    Ok(()) => None,
                    Err(_) => slot.take(),
                }
            }
            _ => Some(job),
        };
        let Some(job) = refused else {
            self.in_flight = self.in_flight.saturating_add(1);
            return None;
        };
        Some(Done {
            tag: job.tag,
            result: Err(io::ErrorKind::ResourceBusy.into()),
            buffers: job.buffers,
        })
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool, durable: bool) -> io::Result<()> {
        self.file.write_zeroes(offset, len, unmap, durable)
    }

    fn asynchronous(&self) -> bool {
        true
    }

    fn connect(&mut self, event: &EventFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(event.as_raw_fd())
    }

    fn start(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    fn reap(&mut self) -> Option<Done> {
        let completion = self.ring.completion().next()?;
        let tag = usize::try_from(completion.user_data()).ok()?;
        let job = self.jobs.get_mut(tag)?.take()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(self.finish(job, completion.result()))
    }

    fn wait(&mut self) {
        if self.in_flight == 0 {
            return;
        }
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => std::thread::sleep(RETRY),
            _ => {}
        }
    }
}

impl Drop for UringBackend {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            self.wait();
            while self.reap().is_some() {}
        }
    }
}
