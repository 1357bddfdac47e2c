//! The disk that takes what a container writes: a sparse file with an empty ext4.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The smallest that holds an ext4 with a journal, in bytes.
pub const MIN_SIZE: u64 = 16 << 20;

/// A scratch disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// Asked for less than a file system needs.
    #[error("a scratch disk has at least {} MiB, not {} bytes", MIN_SIZE >> 20, .0)]
    TooSmall(u64),
    /// The file cannot be made.
    #[error("cannot make the scratch disk {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is not there.
    #[error("cannot run mkfs.ext4: is the package e2fsprogs installed?")]
    Program(#[source] io::Error),
    /// The program failed.
    #[error("mkfs.ext4 failed: {0}")]
    Format(String),
}

/// Makes the disk at `path`, `bytes` long.
///
/// # Errors
/// [`ScratchError`]; nothing is left then.
pub fn create(path: &Path, bytes: u64) -> Result<(), ScratchError> {
    if bytes < MIN_SIZE {
        return Err(ScratchError::TooSmall(bytes));
    }
    let failed = |source| ScratchError::File {
        path: path.to_owned(),
        source,
    };
    // One that is there already is somebody else's, and stays.
    let file = File::create_new(path).map_err(failed)?;
    let made = file.set_len(bytes).map_err(failed).and_then(|()| format(path));
    if made.is_err() {
        let _ = std::fs::remove_file(path);
    }
    made
}

fn format(path: &Path) -> Result<(), ScratchError> {
    // What can wait is left to the guest's kernel: no inode tables, no journal blocks, nothing to discard.
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", options])
        .arg(path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(ScratchError::Program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ScratchError::Format(said.trim().replace('\n', "; ")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn it_is_an_ext4_and_sparse() {
        let path = std::env::temp_dir().join(format!("koya-scratch-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        create(&path, 1 << 30).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 64 << 20, "{} blocks", metadata.blocks());
        let mut magic = [0; 2];
        File::open(&path)
            .unwrap()
            .read_exact_at(&mut magic, 1080)
            .unwrap();
        assert_eq!(magic, [0x53, 0xef], "the superblock's magic number");
        let again = create(&path, 1 << 30).unwrap_err();
        assert!(matches!(again, ScratchError::File { .. }), "{again}");
        assert!(path.exists(), "what was there before is gone");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn too_small_a_disk_is_refused() {
        let error = create(Path::new("/nowhere/disk"), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("at least 16 MiB"), "{error}");
    }
}
