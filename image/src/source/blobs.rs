//! Bytes by name: files of a folder or members of a tar.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::Members;

/// Opening a queue must not wait for its other end.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Some bytes of a file.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub file: Arc<File>,
    pub at: u64,
    pub size: u64,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.size).unwrap_or(usize::MAX).min(buffer.len());
        let count = self
            .file
            .read_at(buffer.get_mut(..room).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(count as u64);
        self.size = self.size.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Where the parts of an image lie.
#[derive(Debug)]
pub(super) enum Blobs {
    Folder(PathBuf),
    Archive(Members),
}

impl Blobs {
    /// The bytes with a name such as `blobs/sha256/…`; `None` if there are none.
    pub fn find(&self, name: &str) -> io::Result<Option<Blob>> {
        match self {
            Self::Archive(members) => Ok(members.find(name)),
            Self::Folder(folder) => match open_file(&folder.join(name)) {
                Ok(file) => {
                    let size = file.metadata()?.len();
                    Ok(Some(Blob {
                        file: Arc::new(file),
                        at: 0,
                        size,
                    }))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}

/// Opens a regular file; anything else, which might block or never end, is an error.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is no regular file",
    ))
}
