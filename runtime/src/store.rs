//! Folders of containers, below `--root`.
//!
//! ```text
//!  ROOT/ID/state.json   replaced by renames
//!  ROOT/ID/lock         held by whoever creates the container, then by its monitor
//!  ROOT/ID/m.sock       the monitor's; v.sock, api.sock, fs.sock: the microVM's
//!  ROOT/.parts          the guest's first file system, made once
//! ```
//!
//! Whether a container runs is told by the lock, not by the state: after a `kill -9` of anything, a free lock means that
//! it has stopped.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::RuntimeError;
use crate::record::{Record, Status};

/// What is known of the container.
const STATE: &str = "state.json";
/// Held as long as it lives.
const LOCK: &str = "lock";
/// Longest id.
const LONGEST: usize = 128;
/// Longest state that is read.
const MAX_STATE: u64 = 16 << 20;
/// Where what all containers share is kept.
const PARTS: &str = ".parts";
/// What a folder that is being removed is called begins with this.
const GONE: &str = ".gone-";

/// All containers of one `--root`.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A lock, held until this is dropped, by this process and by all that it forks.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held, not used")] File);

impl Store {
    /// Containers below `root`, or where they are by default: for root in /run, for others in the folder of their session.
    pub fn at(root: Option<PathBuf>) -> Self {
        let root = root.unwrap_or_else(|| {
            let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
            match session {
                Some(folder) if !is_real_root() => Path::new(&folder).join("koya-runtime"),
                _ => PathBuf::from("/run/koya-runtime"),
            }
        });
        Self { root }
    }

    /// A container's folder.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// What all containers share.
    pub fn parts(&self) -> PathBuf {
        self.root.join(PARTS)
    }

    /// Makes a container's folder, and takes its lock.
    ///
    /// # Errors
    /// [`RuntimeError::Id`], [`RuntimeError::Exists`], [`RuntimeError::File`]
    pub fn make(&self, id: &str) -> Result<Lock, RuntimeError> {
        check(id)?;
        let folder = self.folder(id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(RuntimeError::file("make", &self.root))?;
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::Exists(id.to_owned()));
            }
            made => made.map_err(RuntimeError::file("make", &folder))?,
        }
        let path = folder.join(LOCK);
        let lock = File::options()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(RuntimeError::file("make", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| RuntimeError::file("lock", &path)(errno.into()))?;
        Ok(Lock(lock))
    }

    /// What is known of a container, with the status that it has now.
    ///
    /// # Errors
    /// [`RuntimeError::Id`], [`RuntimeError::Unknown`], [`RuntimeError::Unreadable`]
    pub fn load(&self, id: &str) -> Result<Record, RuntimeError> {
        check(id)?;
        let folder = self.folder(id);
        if !folder.is_dir() {
            return Err(RuntimeError::Unknown(id.to_owned()));
        }
        let path = folder.join(STATE);
        let fits = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_STATE);
        let text = if fits { fs::read(&path).ok() } else { None };
        let record = text.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let mut record = record.ok_or_else(|| RuntimeError::Unreadable(id.to_owned(), path))?;
        if !self.is_alive(id) {
            record.status = Status::Stopped;
        }
        Ok(record)
    }

    /// Writes what is known of a container, whole or not at all.
    ///
    /// # Errors
    /// [`RuntimeError::File`]
    pub fn save(&self, record: &Record) -> Result<(), RuntimeError> {
        let folder = self.folder(&record.id);
        let path = folder.join(STATE);
        let unfinished = folder.join(format!("{STATE}.{}", std::process::id()));
        let text =
            serde_json::to_vec(record).map_err(|error| RuntimeError::file("write", &path)(error.into()))?;
        File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(RuntimeError::file("write", &path))
    }

    /// Whether whoever creates or keeps a container lives.
    pub fn is_alive(&self, id: &str) -> bool {
        let Ok(lock) = File::open(self.folder(id).join(LOCK)) else {
            return false;
        };
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Waits until a container has stopped; whether it has.
    pub fn await_end(&self, id: &str, patience: Duration) -> bool {
        let start = Instant::now();
        while self.is_alive(id) {
            if start.elapsed() >= patience {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Removes a container's folder: at once for everybody else. One that is gone is as wished.
    ///
    /// # Errors
    /// [`RuntimeError::File`]
    pub fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let folder = self.folder(id);
        let gone = self.root.join(format!("{GONE}{id}-{}", std::process::id()));
        match fs::rename(&folder, &gone).and_then(|()| fs::remove_dir_all(&gone)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::file("remove", &folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// All containers whose state can be read, by id.
    pub fn list(&self) -> Vec<Record> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut records: Vec<_> = names.filter_map(|id| self.load(&id).ok()).collect();
        records.sort_by(|one, other| one.id.cmp(&other.id));
        records
    }
}

/// Ids become names of folders, here and in the guest.
fn check(id: &str) -> Result<(), RuntimeError> {
    let fine = id.len() <= LONGEST
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    match fine {
        true => Ok(()),
        false => Err(RuntimeError::Id(id.chars().take(LONGEST).collect())),
    }
}

/// Root of the host, and not of a user namespace.
fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_whitespace();
    rustix::process::geteuid().is_root() && (fields.next(), fields.next()) == (Some("0"), Some("0"))
}
