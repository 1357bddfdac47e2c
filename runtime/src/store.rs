//! Folders of containers, below `--root`.
//!
//! ```text
//!  ROOT/ID/state.json   replaced by renames
//!  ROOT/ID/lock         held by whoever creates the container, then by its monitor
//!  ROOT/ID/oom          a process of it was killed for want of memory; the shim of containerd looks for it
//!  ROOT/ID/m.sock       the monitor's; v.sock, api.sock, fs.sock: the microVM's
//!  ROOT/.parts          the guest's first file system, made once
//!  ROOT/.new-ID-PID     a folder that PID makes; .gone-ID-PID: one that PID removes
//! ```
//!
//! Whether a container runs is told by the lock, not by the state: after a `kill -9` of anything, a free lock means that
//! it has stopped.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use koya_sandbox::rights;
use rustix::fs::{FlockOperation, flock};

use crate::error::RuntimeError;
use crate::record::{Record, Status};

/// What is known of the container.
const STATE: &str = "state.json";
/// Held as long as it lives.
const LOCK: &str = "lock";
/// There if it ran out of memory.
const OOM: &str = "oom";
/// Longest id.
const LONGEST: usize = 128;
/// Longest state that is read.
const MAX_STATE: u64 = 16 << 20;
/// Where what all containers share is kept.
const PARTS: &str = ".parts";
/// What a folder that is being removed is called begins with this.
const GONE: &str = ".gone-";
/// And what one is called that is not furnished yet.
const NEW: &str = ".new-";

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
                Some(folder) if !rights::is_root_of_host() => Path::new(&folder).join("koya-runtime"),
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

    /// Makes a container's folder with its lock taken and what is known of it: whole or not at all.
    ///
    /// # Errors
    /// [`RuntimeError::Id`], [`RuntimeError::Exists`], [`RuntimeError::File`]
    pub fn make(&self, record: &Record) -> Result<Lock, RuntimeError> {
        let id = &record.id;
        check(id)?;
        let folder = self.folder(id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(RuntimeError::file("make", &self.root))?;
        self.sweep();
        if folder.exists() {
            return Err(RuntimeError::Exists(id.clone()));
        }
        let unfinished = self.root.join(format!("{NEW}{id}-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&unfinished)
            .map_err(RuntimeError::file("make", &unfinished))?;
        let made = furnish(&unfinished, record).and_then(|lock| {
            // A folder in which something is, is not replaced.
            fs::rename(&unfinished, &folder).map_err(|error| match error.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                    RuntimeError::Exists(id.clone())
                }
                _ => RuntimeError::file("make", &folder)(error),
            })?;
            Ok(lock)
        });
        if made.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
        made
    }

    /// Removes what processes left behind that were killed while they made or removed a folder.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let pid = [NEW, GONE]
                .iter()
                .any(|begin| name.starts_with(begin))
                .then(|| name.rsplit_once('-')?.1.parse::<u32>().ok())
                .flatten();
            let is_left = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
            if pid.is_some_and(is_left) && !is_held(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// What is known of a container, with the status that it has now.
    ///
    /// # Errors
    /// [`RuntimeError::Id`], [`RuntimeError::Unknown`], [`RuntimeError::Unreadable`]
    pub fn load(&self, id: &str) -> Result<Record, RuntimeError> {
        check(id)?;
        let folder = self.folder(id);
        let unknown = || RuntimeError::Unknown(id.to_owned());
        // Somebody may remove it meanwhile, and another one make it anew.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&folder);
        let opened = opened.map_err(|_| unknown())?;
        let seen = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        let record = read(&seen.join(STATE));
        let is_alive = is_held(&seen);
        let number = |found: io::Result<Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
        if (record.is_none() || !is_alive) && number(opened.metadata()) != number(fs::metadata(&folder)) {
            return Err(unknown());
        }
        let mut record = record.ok_or_else(|| RuntimeError::Unreadable(id.to_owned(), folder.join(STATE)))?;
        if !is_alive {
            record.status = Status::Stopped;
        }
        Ok(record)
    }

    /// Writes what is known of a container, whole or not at all.
    ///
    /// # Errors
    /// [`RuntimeError::File`]
    pub fn save(&self, record: &Record) -> Result<(), RuntimeError> {
        write(&self.folder(&record.id), record)
    }

    /// Notes that a process of a container was killed for want of memory.
    ///
    /// # Errors
    /// [`RuntimeError::File`]
    pub fn note_oom(&self, id: &str) -> Result<(), RuntimeError> {
        let path = self.folder(id).join(OOM);
        fs::write(&path, "").map_err(RuntimeError::file("write", &path))
    }

    /// Whether whoever creates or keeps a container lives.
    pub fn is_alive(&self, id: &str) -> bool {
        is_held(&self.folder(id))
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

/// Whether somebody has the lock in a container's folder.
fn is_held(folder: &Path) -> bool {
    File::open(folder.join(LOCK)).is_ok_and(|lock| {
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

/// A state, if it is one.
fn read(path: &Path) -> Option<Record> {
    let fits = fs::metadata(path).is_ok_and(|file| file.len() <= MAX_STATE);
    let text = fits.then(|| fs::read(path).ok()).flatten()?;
    serde_json::from_slice(&text).ok()
}

/// Makes the lock, taken, and the state. Nobody looks into the folder yet, under whose name it is not known.
fn furnish(folder: &Path, record: &Record) -> Result<Lock, RuntimeError> {
    let path = folder.join(LOCK);
    let lock = File::options()
        .create_new(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(RuntimeError::file("make", &path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| RuntimeError::file("lock", &path)(errno.into()))?;
    write(folder, record)?;
    Ok(Lock(lock))
}

/// Writes the state in a container's folder, whole or not at all.
fn write(folder: &Path, record: &Record) -> Result<(), RuntimeError> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::record::tests::record;

    /// A folder of states, gone with the test.
    pub struct Place(pub Store);

    impl Place {
        pub fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("koya-store-{}-{count}", std::process::id());
            Self(Store::at(Some(std::env::temp_dir().join(name))))
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0.root).unwrap().flatten();
            let mut names: Vec<_> = entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let place = Place::new();
        let lock = place.0.make(&record("web")).unwrap();
        assert_eq!(place.0.load("web").unwrap().status, Status::Creating);
        assert!(matches!(
            place.0.make(&record("web")),
            Err(RuntimeError::Exists(_))
        ));
        drop(lock);
        assert_eq!(place.0.load("web").unwrap().status, Status::Stopped);
        assert_eq!(place.names(), ["web"]);
        // The state cannot be written where there is no room for it: here, because its name is taken.
        let blocked = place.0.root.join(format!("{NEW}box-{}", std::process::id()));
        fs::create_dir_all(blocked.join(STATE).join("x")).unwrap();
        assert!(furnish(&blocked, &record("box")).is_err());
        fs::remove_dir_all(&blocked).unwrap();
        fs::write(place.0.root.join("file"), "").unwrap();
        assert!(place.0.make(&record("file")).is_err());
        assert_eq!(place.names(), ["file", "web"]);
        place.0.remove("web").unwrap();
        assert_eq!(place.names(), ["file"]);
    }

    #[test]
    fn who_looks_at_containers_disturbs_nobody_who_makes_one() {
        let place = Place::new();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        // Never one that is not known, and never one that has stopped.
                        if let Ok(found) = place.0.load("web") {
                            assert_eq!(found.status, Status::Creating);
                        }
                    }
                });
            }
            for _ in 0..300 {
                let lock = place.0.make(&record("web"));
                let lock = lock.inspect_err(|_| done.store(true, Ordering::Relaxed)).unwrap();
                place.0.remove("web").unwrap();
                drop(lock);
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn what_the_dead_left_is_swept_up() {
        let place = Place::new();
        fs::create_dir_all(&place.0.root).unwrap();
        // No process has such a number (proc(5), pid_max).
        let dead = u32::MAX;
        let own = std::process::id();
        for name in [
            format!("{GONE}a-b-{dead}"),
            format!("{NEW}c-{dead}"),
            format!("{GONE}d-{own}"),
            format!("{NEW}e-{own}"),
            PARTS.to_owned(),
        ] {
            fs::create_dir_all(place.0.root.join(name).join("deep")).unwrap();
        }
        drop(place.0.make(&record("web")).unwrap());
        let wanted = [
            format!("{GONE}d-{own}"),
            format!("{NEW}e-{own}"),
            PARTS.to_owned(),
            "web".to_owned(),
        ];
        assert_eq!(place.names(), wanted);
    }
}
