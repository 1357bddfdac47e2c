//! Folders of containers and microVMs: how they are made, locked, and go.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ID_LENGTH, StateError, file};

/// Held as long as the monitor of a microVM lives.
const LOCK: &str = "lock";
/// Held, by any number, as long as somebody waits to start containers of the microVM again.
const WAITING: &str = "waiting";
/// What is known of the container, or of the microVM.
const STATE: &str = "state.json";
/// What a folder that is being removed is called begins with this.
const GONE: &str = ".gone-";
/// Longest state that is read: a container's limits, mounts and variables fit many times.
const MAX_STATE: u64 = 16 << 20;

/// Removes a folder: at once for everybody else, by another name. One that is gone is as wished.
pub(super) fn remove(folder: &Path) -> Result<(), StateError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = folder.with_file_name(format!("{GONE}{name}"));
    match fs::rename(folder, &gone).and_then(|()| fs::remove_dir_all(&gone)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(folder)(error)),
        _ => Ok(()),
    }
}

/// Makes a folder that only its owner may look into: what containers write is in it.
pub(super) fn private(path: &Path) -> Result<(), StateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(file(path))
}

/// Takes the lock of a folder that is only looked at and changed in turn; waits for it.
pub(super) fn lock_all(folder: &Path) -> Result<File, StateError> {
    let lock = File::open(folder).map_err(file(folder))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| file(folder)(error.into()))?;
    Ok(lock)
}

/// Takes the lock in `folder`, unless somebody else holds it.
pub(super) fn lock(folder: &Path) -> Result<Option<File>, StateError> {
    let path = folder.join(LOCK);
    let lock = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(file(&path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(file(&path)(error.into())),
    }
}

/// Whether somebody holds the lock in `folder`. Looks without taking it.
pub(super) fn is_held(folder: &Path) -> bool {
    let Ok(lock) = File::open(folder.join(LOCK)) else {
        return false;
    };
    // A shared lock of ours is in the way of nobody but for an instant.
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Says that somebody waits to start containers again, as long as the answer lives.
pub(super) fn wait(folder: &Path) -> Result<File, StateError> {
    let path = folder.join(WAITING);
    let options = File::options().create(true).append(true).mode(0o600).open(&path);
    let lock = options.map_err(file(&path))?;
    flock(&lock, FlockOperation::LockShared).map_err(|error| file(&path)(error.into()))?;
    Ok(lock)
}

/// Whether anybody does.
pub(super) fn is_waited_for(folder: &Path) -> bool {
    let Ok(lock) = File::open(folder.join(WAITING)) else {
        return false;
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// What is known of the folder's owner. `None` if that cannot be read, or was written by another version.
pub(super) fn read<T: DeserializeOwned>(folder: &Path) -> Option<T> {
    let path = folder.join(STATE);
    if fs::metadata(&path).ok()?.len() > MAX_STATE {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes what is known, whole or not at all.
pub(super) fn write(folder: &Path, state: &impl Serialize) -> Result<(), StateError> {
    let path = folder.join(STATE);
    // Whoever writes has a name of his own for it: the monitor and a command may do so at the same time.
    let unfinished = folder.join(format!("{STATE}.{}", std::process::id()));
    let text = serde_json::to_vec_pretty(state).map_err(|error| file(&path)(error.into()))?;
    let mut new = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(file(&unfinished))?;
    new.write_all(&text)
        .and_then(|()| new.sync_all())
        .map_err(file(&unfinished))?;
    fs::rename(&unfinished, &path).map_err(file(&path))
}

/// Whether there is a state in `folder`, be it readable or not.
pub(super) fn has_state(folder: &Path) -> bool {
    folder.join(STATE).exists()
}

/// The folders in `root` that are named as ours are, and what they are called.
pub(super) fn ids(root: &Path) -> Result<Vec<String>, StateError> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(root).map_err(file(root))? {
        let entry = entry.map_err(file(root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_id(&name) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ids.push(name);
        }
    }
    Ok(ids)
}

/// Removes from `root` the folders whose removal somebody began and could not finish.
pub(super) fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(GONE).is_some_and(is_id) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_id(name: &str) -> bool {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    name.len() == ID_LENGTH && name.bytes().all(hexadecimal)
}
