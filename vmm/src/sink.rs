//! Files and pipes that are appended to and must never stop the microVM.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens `path` to append to it, creating it if needed. A pipe opens even before it has a reader, and a full one
/// refuses more instead of blocking.
pub fn open(path: &Path) -> io::Result<File> {
    // For reading, too: a pipe without a reader cannot be opened for writing alone without blocking.
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
}
