//! A kernel or initrd file on the host: its size, its first bytes, and its way into guest memory.
//!
//! Bytes go from the file straight to guest memory, with no copy in between. A file that shrinks
//! while it is read ends in an error, one that grows is read to the length it had at first.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

/// An open file and the name by which messages call it. Reading moves the file's offset.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The file, open for reading.
    pub file: &'a File,
    /// Where it was opened.
    pub path: &'a Path,
}

/// Why a file could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The host would not tell about the file.
    #[error("cannot tell the size of the file")]
    Metadata(#[source] io::Error),
    /// A folder, a pipe or a device.
    #[error("it is {0}; a regular file is needed")]
    NotAFile(&'static str),
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// The host failed to read it.
    #[error("cannot read the file at byte {offset}")]
    Read {
        /// Where reading began.
        offset: u64,
        /// The failure.
        source: io::Error,
    },
    /// Less in it than its own header says.
    #[error("the file is cut short: it needs {needed} bytes and has {actual}")]
    Truncated {
        /// Length that the file's contents call for.
        needed: u64,
        /// Length of the file.
        actual: u64,
    },
    /// Guest memory would not take it.
    #[error("cannot put the file into guest memory at {address:#x}")]
    Memory {
        /// Guest-physical address.
        address: u64,
        /// The failure.
        source: GuestMemoryError,
    },
}

impl Image<'_> {
    /// Length of the file in bytes.
    ///
    /// # Errors
    ///
    /// Anything but a regular file that has something in it.
    pub(crate) fn size(&self) -> Result<u64, ImageError> {
        use std::os::unix::fs::FileTypeExt;
        let metadata = self.file.metadata().map_err(ImageError::Metadata)?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            return Err(ImageError::NotAFile(match () {
                () if kind.is_dir() => "a directory",
                () if kind.is_fifo() => "a pipe",
                () if kind.is_socket() => "a socket",
                () => "a device",
            }));
        }
        match metadata.len() {
            0 => Err(ImageError::Empty),
            size => Ok(size),
        }
    }

    /// Reads from `offset` until `buffer` is full or the file ends, and returns what was read.
    pub(crate) fn read_at<'b>(&self, buffer: &'b mut [u8], offset: u64) -> Result<&'b [u8], ImageError> {
        let failed = |source| ImageError::Read { offset, source };
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let position = u64::try_from(filled)
                .ok()
                .and_then(|filled| offset.checked_add(filled));
            let position = position.ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
            match self.file.read_at(rest, position) {
                Ok(0) => break,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(buffer.get(..filled).unwrap_or_default())
    }

    /// Copies `length` bytes of the file, from `offset` on, to guest memory at `address`.
    pub(crate) fn place<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        address: u64,
        offset: u64,
        length: u64,
    ) -> Result<(), ImageError> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(offset))
            .map_err(|source| ImageError::Read { offset, source })?;
        let mut done = 0_u64;
        while let Some(rest) = length.checked_sub(done).filter(|&rest| rest != 0) {
            let target = GuestAddress(address.saturating_add(done));
            // One call takes what one read gives; network and user-space file systems give less than asked.
            let count = usize::try_from(rest).unwrap_or(usize::MAX);
            match memory.read_volatile_from(target, &mut file, count) {
                Ok(0) => {
                    let actual = offset.saturating_add(done);
                    let needed = offset.saturating_add(length);
                    return Err(ImageError::Truncated { needed, actual });
                }
                Ok(count) => done = done.saturating_add(u64::try_from(count).unwrap_or(u64::MAX)),
                Err(GuestMemoryError::IOError(source)) if source.kind() == ErrorKind::Interrupted => {}
                Err(GuestMemoryError::IOError(source)) => {
                    let offset = offset.saturating_add(done);
                    return Err(ImageError::Read { offset, source });
                }
                Err(source) => {
                    let address = target.0;
                    return Err(ImageError::Memory { address, source });
                }
            }
        }
        Ok(())
    }
}
