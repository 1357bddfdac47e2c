//! Files that appear under their names complete and durable, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock::{Lock, try_lock};

/// Tells files of one process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The folder for unfinished files. Each is locked by whoever writes it; what nobody has locked is rubbish of
/// somebody who was killed.
#[derive(Debug, Clone)]
pub(super) struct TempFolder {
    folder: PathBuf,
    /// Held while a file is made and locked, and while rubbish is looked for.
    lock: PathBuf,
}

/// A file that has no name yet under which anybody would look for it.
#[derive(Debug)]
pub(super) struct Temp {
    file: Option<File>,
    path: PathBuf,
}

impl TempFolder {
    pub fn new(folder: PathBuf, lock: PathBuf) -> Self {
        Self { folder, lock }
    }

    pub fn create(&self) -> io::Result<Temp> {
        let _lock = Lock::exclusive(&self.lock)?;
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("{}-{number}", std::process::id()));
            let made = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&path);
            match made {
                Ok(file) => {
                    file.lock()?;
                    return Ok(Temp {
                        file: Some(file),
                        path,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A file without any name, gone when it is closed.
    pub fn scratch(&self) -> io::Result<File> {
        let mut temp = self.create()?;
        temp.file.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes what killed processes left behind.
    pub fn sweep(&self) -> io::Result<()> {
        let _lock = Lock::exclusive(&self.lock)?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let Ok(file) = File::open(&path) else { continue };
            if try_lock(&file)? {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Replaces or makes a small file.
    pub fn write(&self, target: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temp = self.create()?;
        temp.file()?.write_all(bytes)?;
        temp.commit(target)
    }
}

impl Temp {
    pub fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes the contents durable and gives the file its name, whatever had it before.
    pub fn commit(mut self, target: &Path) -> io::Result<()> {
        self.file()?.sync_all()?;
        fs::rename(&self.path, target)?;
        self.path = PathBuf::new();
        match target.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // If this fails, the next load sweeps it away.
            let _ = fs::remove_file(&self.path);
        }
    }
}
