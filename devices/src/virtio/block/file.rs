//! A disk in a file or block device, read and written on the caller's thread.
//!
//! Data goes from the host's page cache straight to and from guest memory, one `preadv(2)` or `pwritev(2)` a request.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use super::backend::{BlockBackend, Done, Job, Operation};
use super::buffers::GuestBuffers;
use super::error::BlockError;
use super::open;

/// What the kernel takes in one call (UIO_MAXIOV).
pub(super) const MAX_VECTORS: usize = 1024;

const ZERO_PAGE: u64 = 4096;
static ZEROES: [u8; ZERO_PAGE as usize] = [0; ZERO_PAGE as usize];
/// Vectors of zeroes in one write: 1 MiB.
const ZERO_VECTORS: usize = 256;

/// _IO(0x12, 119).
const BLKDISCARD: libc::Ioctl = 0x1277;

/// A raw disk in a file or block device of the host.
pub struct FileBackend {
    file: File,
    sectors: u64,
    block_device: bool,
    read_only: bool,
    /// The file system can make holes, as far as we know.
    can_punch: bool,
    /// The file system can zero a range without writing it, as far as we know.
    can_zero: bool,
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl FileBackend {
    /// Opens the disk at `path`, a regular file or block device whose size is a multiple of 512 bytes.
    ///
    /// An empty file is a disk without sectors: platforms keep such drives in reserve and put the real file in their
    /// place later ([`Block::replace_backend`](super::Block::replace_backend)).
    ///
    /// # Errors
    /// One line that names `path` and what would be right. Never waits, whatever is at `path`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let disk = open::open(path, read_only)?;
        Ok(Self::new(disk.file, disk.sectors, disk.block_device, read_only))
    }

    pub(super) fn new(file: File, sectors: u64, block_device: bool, read_only: bool) -> Self {
        Self {
            file,
            sectors,
            block_device,
            read_only,
            can_punch: true,
            can_zero: true,
        }
    }

    /// As on a host that can neither make holes nor zero ranges.
    #[cfg(test)]
    pub(super) fn forget_abilities(&mut self) {
        (self.can_punch, self.can_zero) = (false, false);
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Does what `operation` asks for, with what is left of `buffers`.
    pub(super) fn run(
        &self,
        operation: Operation,
        offset: u64,
        buffers: &mut GuestBuffers,
    ) -> io::Result<()> {
        match operation {
            Operation::Read => self.transfer(Direction::Read, offset, buffers),
            Operation::Write { durable } => {
                self.transfer(Direction::Write, offset, buffers)?;
                if durable { self.sync() } else { Ok(()) }
            }
            Operation::Flush => self.sync(),
        }
    }

    fn transfer(&self, direction: Direction, mut offset: u64, buffers: &mut GuestBuffers) -> io::Result<()> {
        while buffers.remaining() > 0 {
            let count = self.transfer_once(direction, offset, buffers)?;
            if count == 0 {
                // The file is shorter than it was when it was opened.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffers.advance(count);
            offset = offset.saturating_add(count as u64);
        }
        Ok(())
    }

    fn transfer_once(&self, direction: Direction, offset: u64, buffers: &GuestBuffers) -> io::Result<usize> {
        let vectors = buffers.vectors();
        let count = libc::c_int::try_from(vectors.len().min(MAX_VECTORS)).unwrap_or(libc::c_int::MAX);
        let offset = file_offset(offset)?;
        retry(|| match direction {
            // SAFETY: the vectors lie in guest memory that `buffers` keeps mapped, and at most as many are used as
            // there are.
            Direction::Read => unsafe { libc::preadv(self.fd(), vectors.as_ptr(), count, offset) },
            // SAFETY: as above.
            Direction::Write => unsafe { libc::pwritev(self.fd(), vectors.as_ptr(), count, offset) },
        })
    }

    fn sync(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open.
        retry(|| unsafe { libc::fdatasync(self.fd()) } as isize).map(drop)
    }

    /// Makes a hole, which reads as zeroes. `Ok(false)` when the host cannot.
    fn punch(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        attempt(&mut self.can_punch, || {
            allocate(self.file.as_raw_fd(), mode, offset, len)
        })
    }

    /// Zeroes and keeps the space. `Ok(false)` when the host cannot.
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        attempt(&mut self.can_zero, || {
            allocate(self.file.as_raw_fd(), mode, offset, len)
        })
    }

    fn discard_device(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        let range = [offset, len];
        let fd = self.file.as_raw_fd();
        attempt(&mut self.can_punch, || {
            // SAFETY: BLKDISCARD reads two 64-bit numbers from its argument.
            retry(|| unsafe { libc::ioctl(fd, BLKDISCARD, range.as_ptr()) } as isize).map(drop)
        })
    }

    fn write_zero_bytes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        let whole = libc::iovec {
            iov_base: ZEROES.as_ptr().cast_mut().cast(),
            iov_len: ZEROES.len(),
        };
        let vectors = [whole; ZERO_VECTORS];
        while len > 0 {
            // As many whole pages as there are; what is less than a page goes by itself, at the end.
            let part = libc::iovec {
                iov_len: usize::try_from(len).unwrap_or(usize::MAX),
                ..whole
            };
            let (first, count) = match usize::try_from(len / ZERO_PAGE).unwrap_or(ZERO_VECTORS) {
                0 => (&raw const part, 1),
                pages => (vectors.as_ptr(), pages.min(ZERO_VECTORS)),
            };
            let count = libc::c_int::try_from(count).unwrap_or(1);
            let at = file_offset(offset)?;
            // SAFETY: pwritev only reads the vectors, `count` of which exist and lie in a constant.
            let written = retry(|| unsafe { libc::pwritev(self.fd(), first, count, at) })? as u64;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset = offset.saturating_add(written);
            len = len.saturating_sub(written);
        }
        Ok(())
    }
}

impl BlockBackend for FileBackend {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn submit(&mut self, job: Job) -> Option<Done> {
        let Job {
            tag,
            operation,
            offset,
            mut buffers,
        } = job;
        let result = self.run(operation, offset, &mut buffers);
        Some(Done { tag, result, buffers })
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // A discard is a hint: it has worked as well when the host can do nothing about it.
        if self.block_device {
            self.discard_device(offset, len)
        } else {
            self.punch(offset, len)
        }
        .map(drop)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool, durable: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        if !((unmap && self.punch(offset, len)?) || self.zero(offset, len)?) {
            self.write_zero_bytes(offset, len)?;
        }
        if durable { self.sync() } else { Ok(()) }
    }
}

/// Repeats a system call that a signal interrupted.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Tries what not every host can, and remembers when this one cannot.
fn attempt(can: &mut bool, act: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    if !*can {
        return Ok(false);
    }
    let Err(error) = act() else {
        return Ok(true);
    };
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => {
            *can = false;
            Ok(false)
        }
        // A block device with sectors of more than 512 bytes takes only whole ones.
        Some(libc::EINVAL) => Ok(false),
        _ => Err(error),
    }
}

fn allocate(fd: RawFd, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (file_offset(offset)?, file_offset(len)?);
    // SAFETY: fallocate takes no pointers.
    retry(|| unsafe { libc::fallocate(fd, mode, offset, len) } as isize).map(drop)
}

fn file_offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}
