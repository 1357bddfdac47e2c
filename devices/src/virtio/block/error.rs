//! Why a drive cannot be used.

use std::io;
use std::path::PathBuf;

use crate::virtio::DeviceFault;

/// A drive's file cannot be used. Every message is one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There is nothing at this path.
    #[error("the drive file {} does not exist", path.display())]
    Missing {
        /// Path of the file.
        path: PathBuf,
    },
    /// There is something else than a disk at this path.
    #[error("{} is {found}; a drive needs a regular file or a block device", path.display())]
    WrongType {
        /// Path of the file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The file may not be opened for reading.
    #[error("no permission to read the drive file {}; change its owner or mode", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file may not be opened for writing.
    #[error(
        "no permission to write the drive file {}; change its owner or mode, or set `is_read_only` to true",
        path.display()
    )]
    Unwritable {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be opened or examined for another reason.
    #[error("cannot open the drive file {}", path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file ends in the middle of a sector.
    #[error(
        "the drive file {} holds {size} bytes, which is not a multiple of 512; grow it to {} bytes",
        path.display(),
        size.next_multiple_of(super::SECTOR_SIZE)
    )]
    PartialSector {
        /// Path of the file.
        path: PathBuf,
        /// Its size in bytes, less than 2⁶³.
        size: u64,
    },
    /// The kernel offers no asynchronous I/O.
    #[error(
        "the drive file {} asks for `io_engine` \"Async\", but this host offers no io_uring; use \"Sync\"",
        path.display()
    )]
    NoUring {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new file does not fit the drive it is for.
    #[error(
        "the drive is read-only for its guest and a new file must be opened so too, or the other way round"
    )]
    AccessChanged,
    /// The guest broke the queue of a running drive, so that it cannot be told what became of its requests.
    #[error("the drive's queue is broken; its guest must reset it")]
    Queue(#[source] DeviceFault),
    /// The host gives no event for finished requests.
    #[error("cannot set up the event that tells of the drive's finished requests")]
    Event(#[source] io::Error),
}
