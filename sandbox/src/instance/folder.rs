//! The folder of an instance: its lock, its state, and how it goes.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{ID_LENGTH, InstanceError, State, Status, file};

/// Held as long as the process lives that runs the instance.
const LOCK: &str = "lock";
/// What is known of the instance.
pub(super) const STATE: &str = "state.json";
/// What a folder that is being removed is called begins with this.
const GONE: &str = ".gone-";

/// Removes an instance's folder: at once for everybody else, by another name. One that is gone is as wished.
pub(super) fn remove(folder: &Path) -> Result<(), InstanceError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = folder.with_file_name(format!("{GONE}{name}"));
    match fs::rename(folder, &gone).and_then(|()| fs::remove_dir_all(&gone)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(folder)(error)),
        _ => Ok(()),
    }
}

/// A folder that only its owner may look into: what containers write is in it.
pub(super) fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the lock of a new instance and takes it.
pub(super) fn new_lock(folder: &Path) -> Result<File, InstanceError> {
    let path = folder.join(LOCK);
    let lock = File::create_new(&path).map_err(file(&path))?;
    // Whoever looks holds it for an instant.
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| file(&path)(error.into()))?;
    Ok(lock)
}

/// The lock of an instance, unless somebody else holds it.
pub(super) fn lock(folder: &Path) -> Result<Option<File>, InstanceError> {
    let path = folder.join(LOCK);
    let lock = File::options().append(true).open(&path).map_err(file(&path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(file(&path)(error.into())),
    }
}

/// The state of the instance in `folder`, as it is now.
pub(super) fn read(folder: &Path) -> Option<State> {
    let text = fs::read(folder.join(STATE)).ok()?;
    let mut state: State = serde_json::from_slice(&text).ok()?;
    if folder.file_name() != Some(state.id.as_ref()) {
        return None;
    }
    if state.status != Status::Stopped && !is_held(folder) {
        state.status = Status::Stopped;
        state.vmm_pid = None;
    }
    Some(state)
}

/// Whether somebody holds the lock of the instance in `folder`. Looks without taking it.
pub(super) fn is_held(folder: &Path) -> bool {
    let Ok(lock) = File::open(folder.join(LOCK)) else {
        return false;
    };
    // A shared lock of ours would be in the way of nobody but a removal, for an instant.
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Removes from `root` what a process left that died while it made or removed an instance: folders that are named as ours
/// are and hold no state. To be called while nobody makes one. What somebody else has put there stays, as does a state
/// that another version wrote.
pub(super) fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let gone = name.strip_prefix(GONE).is_some_and(is_id);
        let half_made = is_id(&name) && !folder.join(STATE).exists() && !is_held(&folder);
        if gone || half_made {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn is_id(name: &str) -> bool {
    name.len() == ID_LENGTH
        && name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}
