//! The file with the state.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use koya_api::config::{SnapshotLoad, VmConfig};
use koya_api::json;

use super::{SavedVm, SnapshotError};
use crate::resources::open_file;

/// The first line. Its number changes when older builds could not read what follows.
const FORMAT: &str = "koya-snapshot 1\n";
/// The most that is read: 32 vCPUs have less than 1 MiB.
const MOST: u64 = 16 << 20;

impl SavedVm {
    /// Writes it to `path`, which is replaced if it is there.
    pub fn write(&self, path: &Path) -> Result<(), SnapshotError> {
        let failed = |source| SnapshotError::Write {
            path: path.to_owned(),
            source,
        };
        // In one piece, so that the program has the code for it once.
        let state = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let mut file = create(path)?;
        let written = file
            .write_all(FORMAT.as_bytes())
            .and_then(|()| file.write_all(&state))
            .and_then(|()| file.sync_all());
        written.map_err(|error| {
            // Half of it is of no use.
            let _ = fs::remove_file(path);
            failed(error)
        })
    }

    /// Reads and checks the one at `path`.
    pub fn read(path: &Path) -> Result<Self, SnapshotError> {
        let bytes = read("snapshot", "snapshot_path", path, MOST)?;
        let Some(state) = bytes.strip_prefix(FORMAT.as_bytes()) else {
            return Err(SnapshotError::NoSnapshot {
                path: path.to_owned(),
                expected: FORMAT.trim_end(),
            });
        };
        let saved: Self = json::from_slice(state).map_err(|source| SnapshotError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        saved.config.validate().map_err(SnapshotError::Impossible)?;
        let configured = saved.config.machine_config.clone().unwrap_or_default().vcpu_count;
        if saved.vcpus.len() != usize::from(configured) {
            return Err(SnapshotError::Vcpus {
                found: saved.vcpus.len(),
                configured,
            });
        }
        Ok(saved)
    }

    /// The devices to restore it with: those it had, with what `load` says otherwise.
    pub fn devices_for(&self, load: &SnapshotLoad) -> Result<VmConfig, SnapshotError> {
        let mut config = VmConfig {
            // Those of whoever loads it; none is ever saved.
            logger: None,
            metrics: None,
            ..self.config.clone()
        };
        for wanted in &load.network_overrides {
            let known = config
                .network_interfaces
                .iter_mut()
                .find(|known| known.iface_id == wanted.iface_id);
            let Some(known) = known else {
                let id = &wanted.iface_id;
                return Err(SnapshotError::NothingToOverride(format!(
                    "network interface {id:?}"
                )));
            };
            known.host_dev_name.clone_from(&wanted.host_dev_name);
        }
        if let Some(wanted) = &load.vsock_override {
            let Some(known) = &mut config.vsock else {
                return Err(SnapshotError::NothingToOverride("socket device".to_owned()));
            };
            known.uds_path.clone_from(&wanted.uds_path);
        }
        Ok(config)
    }
}

/// Reads a file that `field` names, if it has no more than `most` bytes.
pub(super) fn read(
    what: &'static str,
    field: &'static str,
    path: &Path,
    most: u64,
) -> Result<Vec<u8>, SnapshotError> {
    let failed = |source| SnapshotError::Read {
        path: path.to_owned(),
        source,
    };
    let file = open_file(what, field, path).map_err(|error| failed(std::io::Error::other(error)))?;
    let length = file.metadata().map_err(failed)?.len();
    if length > most {
        return Err(SnapshotError::TooLarge {
            path: path.to_owned(),
            length,
            most,
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A new, empty file for its owner alone, in the place of what is there. That goes on to exist for whoever has it open, as a
/// guest that was restored has its memory.
pub(super) fn create(path: &Path) -> Result<File, SnapshotError> {
    let failed = |source| SnapshotError::Write {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(known) if known.is_file() || known.is_symlink() => fs::remove_file(path).map_err(failed)?,
        // What else is there is in the way.
        _ => {}
    }
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(failed)
}
