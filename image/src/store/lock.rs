//! Locks between processes (`flock`): they end with whoever holds them, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A lock that is held as long as this value lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    /// A file that only serves this lock and goes with it.
    path: Option<PathBuf>,
}

impl Lock {
    /// Waits until nobody else holds the lock at all.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.lock()?;
        Ok(Self {
            _file: file,
            path: None,
        })
    }

    /// Waits until nobody holds the lock exclusively.
    pub fn shared(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.lock_shared()?;
        Ok(Self {
            _file: file,
            path: None,
        })
    }

    /// Takes the lock if that is possible at once.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        Ok(try_lock(&file)?.then_some(Self {
            _file: file,
            path: None,
        }))
    }

    /// A lock for one piece of work, whose file vanishes with it. `waiting` is called if somebody else does
    /// that work now.
    pub fn of_work(path: &Path, waiting: &mut dyn FnMut()) -> io::Result<Self> {
        let mut told = false;
        loop {
            let file = open(path)?;
            if !try_lock(&file)? {
                if !told {
                    waiting();
                    told = true;
                }
                file.lock()?;
            }
            // The one before may have removed the file meanwhile: then the next comer has another one.
            let held = file.metadata()?;
            match std::fs::metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Self {
                        _file: file,
                        path: Some(path.to_owned()),
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Still locked: whoever waits will see that the name is gone. A file left behind does no harm.
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}
