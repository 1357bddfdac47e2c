//! A reader of tar streams that trusts nothing: POSIX ustar and pax, GNU long names, GNU sparse files of all
//! formats. Every name, attribute and map has a cap, and names are bytes.
//!
//! Extended attributes are read whole: their values are binary and may hold line feeds.

mod header;
mod pax;
mod reader;
mod sparse;

use std::io;

pub(crate) use reader::TarReader;

/// Longest name or link target, in bytes (`PATH_MAX` without the final zero).
pub(crate) const PATH_MAX: usize = 4095;
/// Bytes of one extended header or long name. Attributes of a file fit into 64 KiB, a sparse map takes more.
const EXTENSION_MAX: u64 = 4 << 20;
/// Bytes of attribute names and values of one file, as Linux caps a value (`XATTR_SIZE_MAX`).
const XATTRS_MAX: usize = 64 << 10;
/// Data ranges of a sparse file: 1 GiB of map per million would be kept otherwise.
const SPARSE_MAX: usize = 1 << 18;

/// One member of a tar archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written: may be absolute or hold `..`.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Permissions with set-id and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Size of the file as it appears, holes included.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Full names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of each range of a sparse file that has data, in order.
    pub ranges: Option<Vec<(u64, u64)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// A tar stream that cannot be read or goes beyond what is sensible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The bytes could not be had.
    #[error("reading failed")]
    Read(#[from] io::Error),
    /// The stream ends within an entry.
    #[error("it ends in the middle of an entry")]
    Truncated,
    /// Its first block is no tar header.
    #[error("the header at byte {0} is not a tar header: its checksum is wrong")]
    Checksum(u64),
    /// A number of the header cannot be read.
    #[error("field \"{field}\" of the header at byte {at} is no number")]
    Number {
        /// Name of the field in the POSIX standard.
        field: &'static str,
        /// Where the header begins.
        at: u64,
    },
    /// An entry type that is neither a file nor an extension.
    #[error("\"{path}\" has the unknown entry type {kind:?}")]
    Kind {
        /// Its name.
        path: String,
        /// The type flag.
        kind: char,
    },
    /// An extended header is malformed.
    #[error("the extended header before byte {0} is malformed: \"LENGTH KEY=VALUE\" lines are expected")]
    Pax(u64),
    /// The map of a sparse file is malformed.
    #[error("the map of the sparse file \"{0}\" is malformed")]
    Sparse(String),
    /// Something is longer than its cap.
    #[error("\"{path}\" has {what} of more than {limit}")]
    Long {
        /// The name, cut off.
        path: String,
        /// What is too long.
        what: &'static str,
        /// The cap, in bytes or entries.
        limit: u64,
    },
}

/// A name for a message: cut off, and with anything unprintable escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    let head = path.get(..path.len().min(120)).unwrap_or_default();
    let mut text: String = String::from_utf8_lossy(head)
        .chars()
        .flat_map(char::escape_debug)
        .collect();
    if head.len() < path.len() {
        text.push('…');
    }
    text
}
