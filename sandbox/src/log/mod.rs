//! What a container wrote, kept in files of a bounded size.
//!
//! A line of the file is a line of the container, in the form that Kubernetes' container runtimes write and log
//! collectors read: time, stream, whether the line is whole, and the line as it was.
//!
//! ```text
//!  2026-11-21T10:00:00.000000000Z stdout F listening on port 80
//!  FOLDER/log      being written         FOLDER/log.1, log.2 …   older ones, up to a number
//! ```

mod read;
mod write;

use std::path::{Path, PathBuf};

pub use read::{Entry, Follower};
pub(crate) use write::Writer;

/// Longest piece of a line; a longer line is several pieces, all but the last marked as parts.
const PIECE: usize = 16 << 10;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Output, or a terminal.
    Stdout,
    /// Errors.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The file that is `age` rotations old.
fn path(folder: &Path, age: u32) -> PathBuf {
    match age {
        0 => folder.join("log"),
        age => folder.join(format!("log.{age}")),
    }
}
