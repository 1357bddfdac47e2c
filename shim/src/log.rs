//! Where a shim tells what went wrong and nobody has asked for: a FIFO in the bundle, which containerd reads.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

static LOG: OnceLock<File> = OnceLock::new();

/// Opens it; without a reader there is none.
pub fn open(path: &Path) {
    let log = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    if let Ok(log) = log {
        let _ = LOG.set(log);
    }
}

/// Tells something. A reader that has gone, or does not read, misses it.
pub fn tell(text: &str) {
    if let Some(mut log) = LOG.get() {
        let _ =
            log.write_all(format!("level=warning msg={text:?} runtime=io.containerd.koya.v2\n").as_bytes());
    }
}
