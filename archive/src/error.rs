//! What can go wrong with a stream of files.

use std::io;

/// Files cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The stream cannot be read or written.
    #[error("the stream of files broke")]
    Stream(#[source] io::Error),
    /// The stream ends in the middle.
    #[error("the stream of files ends in the middle of an entry")]
    Truncated,
    /// The stream is no tar.
    #[error("the stream is no tar archive: {what} at byte {at} is malformed")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// Where, counted from the beginning.
        at: u64,
    },
    /// Something that is not unpacked.
    #[error("{path}: {what} cannot be unpacked")]
    Unsupported {
        /// Its name.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A name that leads out of the folder, or is longer than any name.
    #[error("{path}: is refused, because a name in an archive {why}")]
    Name {
        /// The name, shortened.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A file cannot be read or written.
    #[error("{path}: {act} failed")]
    File {
        /// Which, as the archive names it.
        path: String,
        /// What was tried.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file is where a folder should go.
    #[error("{path}: is there and no folder, so a folder cannot replace it")]
    NoFolder {
        /// Which.
        path: String,
    },
    /// A folder is where a file should go.
    #[error("{path}: is a folder, so a file cannot replace it")]
    Folder {
        /// Which.
        path: String,
    },
    /// Folders in folders, deeper than is packed.
    #[error("{path}: lies more than {limit} folders deep")]
    Deep {
        /// Which.
        path: String,
        /// The cap.
        limit: usize,
    },
    /// A folder with more entries than is packed.
    #[error("{path}: has more than {limit} entries")]
    Crowded {
        /// Which.
        path: String,
        /// The cap.
        limit: usize,
    },
}

/// A name for people: no longer than a line, and nothing a terminal would obey.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(300)
        .collect()
}
