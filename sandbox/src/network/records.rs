//! Files of networks, microVMs and containers: each is replaced by a rename, all are changed under one lock.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::file;
use super::{Attached, Network, NetworkError, Networks, VmNetwork};

const SUFFIX: &str = ".json";
/// Folders of boots begin so.
const BOOT: &str = "boot-";

/// What tells this boot from any other.
pub(super) fn boot_id() -> Result<String, NetworkError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).map_err(file(path))?;
    Ok(id.trim().to_owned())
}

/// Nobody else changes anything as long as this lives.
pub(super) struct Lock(#[allow(dead_code, reason = "held, never looked at")] File);

impl Networks {
    pub(super) fn make_folders(&self) -> Result<(), NetworkError> {
        for folder in [self.home.clone(), self.vms(), self.containers()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(file(&folder))?;
        }
        // What was there before the machine was switched off is not there any more.
        let own = format!("{BOOT}{}", boot_id()?);
        for entry in fs::read_dir(&self.home).map_err(file(&self.home))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(BOOT) && !name.starts_with(&own) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    fn this_boot(&self) -> PathBuf {
        self.home.join(format!("{BOOT}{}", self.boot))
    }

    pub(super) fn vms(&self) -> PathBuf {
        self.this_boot().join("vms")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.this_boot().join("attached")
    }

    pub(super) fn lock(&self) -> Result<Lock, NetworkError> {
        lock(&self.home.join("lock")).map(Lock)
    }

    pub(super) fn save_network(&self, network: &Network) -> Result<(), NetworkError> {
        save(&self.home, &network.name, network, File::sync_all)
    }

    pub(super) fn save_vm(&self, vm: &VmNetwork) -> Result<(), NetworkError> {
        save(&self.vms(), &vm.vm, vm, gone_with_the_power)
    }

    pub(super) fn save_attached(&self, attached: &Attached) -> Result<(), NetworkError> {
        save(&self.containers(), &attached.id, attached, gone_with_the_power)
    }

    pub(super) fn all_networks(&self) -> Result<Vec<Network>, NetworkError> {
        all(&self.home)
    }

    /// All containers that are attached.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Record`]
    pub fn all_attached(&self) -> Result<Vec<Attached>, NetworkError> {
        all(&self.containers())
    }

    /// All microVMs that are prepared.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Record`]
    pub fn all_vms(&self) -> Result<Vec<VmNetwork>, NetworkError> {
        all(&self.vms())
    }
}

/// Opens a file and waits until nobody else has its lock.
pub(super) fn lock(path: &Path) -> Result<File, NetworkError> {
    let lock = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(file(path))?;
    loop {
        match flock(&lock, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(file(path)(errno.into())),
        }
    }
}

/// What means nothing after a power cut need not survive one.
fn gone_with_the_power(_: &File) -> io::Result<()> {
    Ok(())
}

fn save(
    folder: &Path,
    name: &str,
    value: &impl Serialize,
    keep: fn(&File) -> io::Result<()>,
) -> Result<(), NetworkError> {
    let path = folder.join(format!("{name}{SUFFIX}"));
    let new = folder.join(format!(".{name}.new"));
    let text = serde_json::to_vec_pretty(value).map_err(|source| NetworkError::Record {
        path: path.clone(),
        source,
    })?;
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        keep(&file)?;
        fs::rename(&new, &path)
    };
    write().map_err(file(&path))
}

/// Forgets one; none of this name is as wished.
pub(super) fn forget(folder: &Path, name: &str) -> Result<(), NetworkError> {
    let path = folder.join(format!("{name}{SUFFIX}"));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(&path)(error)),
        _ => Ok(()),
    }
}

fn all<T: DeserializeOwned>(folder: &Path) -> Result<Vec<T>, NetworkError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(file(folder))? {
        let entry = entry.map_err(file(folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(SUFFIX) && !name.starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut values = Vec::new();
    for path in paths {
        match fs::read(&path) {
            Ok(text) => values
                .push(serde_json::from_slice(&text).map_err(|source| NetworkError::Record { path, source })?),
            // Removed meanwhile, by somebody whose lock a listing does not wait for.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file(path)(error)),
        }
    }
    Ok(values)
}
