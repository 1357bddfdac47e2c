//! From a path to an open disk.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::SECTOR_SIZE;
use super::error::BlockError;

/// A file that can be a disk.
pub(super) struct OpenDisk {
    pub(super) file: File,
    /// Size in sectors.
    pub(super) sectors: u64,
    pub(super) block_device: bool,
}

/// Opens the disk at `path`.
///
/// Looks before it opens: opening alone can have effects (a watchdog) or take for ever (a FIFO).
pub(super) fn open(path: &Path, read_only: bool) -> Result<OpenDisk, BlockError> {
    let metadata = std::fs::metadata(path).map_err(|source| open_error(path, true, source))?;
    check_type(path, &metadata)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| open_error(path, read_only, source))?;
    let other = |source| BlockError::Open {
        path: path.to_owned(),
        source,
    };
    // Another file may have taken its place meanwhile.
    let metadata = file.metadata().map_err(other)?;
    check_type(path, &metadata)?;
    clear_nonblock(&file).map_err(other)?;
    let block_device = metadata.file_type().is_block_device();
    let size = if block_device {
        file.seek(SeekFrom::End(0)).map_err(other)?
    } else {
        metadata.len()
    };
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(BlockError::PartialSector {
            path: path.to_owned(),
            size,
        });
    }
    Ok(OpenDisk {
        file,
        sectors: size / SECTOR_SIZE,
        block_device,
    })
}

fn check_type(path: &Path, metadata: &Metadata) -> Result<(), BlockError> {
    match wrong_type(metadata.file_type()) {
        Some(found) => Err(BlockError::WrongType {
            path: path.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

fn wrong_type(file_type: FileType) -> Option<&'static str> {
    if file_type.is_file() || file_type.is_block_device() {
        None
    } else if file_type.is_dir() {
        Some("a directory")
    } else if file_type.is_fifo() {
        Some("a FIFO")
    } else if file_type.is_socket() {
        Some("a socket")
    } else if file_type.is_char_device() {
        Some("a character device")
    } else {
        Some("no file")
    }
}

fn open_error(path: &Path, read_only: bool, source: io::Error) -> BlockError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => BlockError::Missing { path },
        io::ErrorKind::PermissionDenied if read_only => BlockError::Unreadable { path, source },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            BlockError::Unwritable { path, source }
        }
        _ => BlockError::Open { path, source },
    }
}

/// Some file systems return short counts to files that were opened without blocking.
fn clear_nonblock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; F_SETFL takes an integer.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
