//! Snapshots: a microVM that stands still, in two files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{PathError, check_path};

/// The body of `PUT /snapshot/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// How much of the memory is written.
    #[serde(default)]
    pub snapshot_type: SnapshotType,
    /// Where the state goes. A file that is there is replaced.
    pub snapshot_path: PathBuf,
    /// Where the guest's memory goes. A file that is there is replaced.
    pub mem_file_path: PathBuf,
}

/// How much of the memory a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotType {
    /// All of it. Pages of zeroes are holes in the file.
    #[default]
    Full,
    /// What has been written since the last one. Not supported yet.
    Diff,
}

/// The body of `PUT /snapshot/working-set`, which is not Firecracker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkingSetNote {
    /// Where it goes. A file that is there is replaced.
    pub working_set_path: PathBuf,
}

impl WorkingSetNote {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn validate(&self) -> Result<(), PathError> {
        check_path("working_set_path", &self.working_set_path)
    }
}

/// The body of `PUT /snapshot/load`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotLoad {
    /// The file with the state.
    pub snapshot_path: PathBuf,
    /// The file with the memory. Deprecated: say `mem_backend`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_file_path: Option<PathBuf>,
    /// Where the memory comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_backend: Option<MemoryBackend>,
    /// The old name of `track_dirty_pages`. Deprecated.
    #[serde(default)]
    pub enable_diff_snapshots: bool,
    /// Whether the pages that the guest writes from now on are recorded.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Whether the guest goes on at once, instead of waiting for `PATCH /vm`.
    #[serde(default)]
    pub resume_vm: bool,
    /// Other taps than those in the snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
    /// Whether the guest's clock is moved on by the time that has passed since, instead of going on where it was.
    #[serde(default)]
    pub clock_realtime: bool,
    /// Another socket than that in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// What guests that went on from it before have written. Not a field of Firecracker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set_path: Option<PathBuf>,
}

/// The key `snapshot` of a config file: what the microVM goes on from, instead of booting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSource {
    /// The file with the state.
    pub snapshot_path: PathBuf,
    /// Where the memory comes from.
    pub mem_backend: MemoryBackend,
    /// What guests that went on from it before have written: it is copied at once, before this one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set_path: Option<PathBuf>,
}

/// Where a restored guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBackend {
    /// How it comes.
    pub backend_type: MemoryBackendType,
    /// The file. It must stay as it is while the microVM runs, which reads it as the guest needs it and never writes it.
    pub backend_path: PathBuf,
}

/// How a restored guest's memory comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryBackendType {
    /// From the file that `PUT /snapshot/create` has written.
    File,
    /// From a process that handles page faults. Not supported yet.
    Uffd,
}

/// A network interface of a snapshot, and its tap now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkOverride {
    /// Which interface.
    pub iface_id: String,
    /// Its tap.
    pub host_dev_name: String,
}

/// The socket of a snapshot's socket device now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockOverride {
    /// As in the device's configuration.
    pub uds_path: PathBuf,
}

/// A snapshot that cannot be made or read as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotConfigError {
    /// Only the pages that have changed.
    #[error("`snapshot_type` Diff is not supported yet: leave it out, or say Full")]
    Diff,
    /// One file for both.
    #[error("`snapshot_path` and `mem_file_path` are the same: they must be two files")]
    SamePath,
    /// Memory by page faults.
    #[error("`backend_type` Uffd is not supported yet: say File")]
    Uffd,
    /// Firecracker's words, which clients look for, and what would be right.
    #[error(
        "missing field: either `mem_backend` or `mem_file_path` is required, and not both: say `mem_backend`"
    )]
    OneMemory,
    /// A path that no file can have.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl SnapshotCreate {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`SnapshotConfigError`]
    pub fn validate(&self) -> Result<(), SnapshotConfigError> {
        if self.snapshot_type == SnapshotType::Diff {
            return Err(SnapshotConfigError::Diff);
        }
        if self.snapshot_path == self.mem_file_path {
            return Err(SnapshotConfigError::SamePath);
        }
        check_path("snapshot_path", &self.snapshot_path)?;
        Ok(check_path("mem_file_path", &self.mem_file_path)?)
    }
}

impl SnapshotLoad {
    /// Checks what needs no file system, and says where state and memory are.
    ///
    /// # Errors
    /// [`SnapshotConfigError`]
    pub fn source(&self) -> Result<SnapshotSource, SnapshotConfigError> {
        let mem_backend = match (&self.mem_backend, &self.mem_file_path) {
            (Some(backend), None) => backend.clone(),
            (None, Some(path)) => MemoryBackend::file(path),
            _ => return Err(SnapshotConfigError::OneMemory),
        };
        let source = SnapshotSource {
            snapshot_path: self.snapshot_path.clone(),
            mem_backend,
            working_set_path: self.working_set_path.clone(),
        };
        source.validate().map(|()| source)
    }

    /// Whether the request used something deprecated.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.mem_file_path.is_some() || self.enable_diff_snapshots
    }
}

impl SnapshotSource {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`SnapshotConfigError`]
    pub fn validate(&self) -> Result<(), SnapshotConfigError> {
        if self.mem_backend.backend_type == MemoryBackendType::Uffd {
            return Err(SnapshotConfigError::Uffd);
        }
        check_path("snapshot_path", &self.snapshot_path)?;
        check_path("backend_path", &self.mem_backend.backend_path)?;
        match &self.working_set_path {
            Some(path) => Ok(check_path("working_set_path", path)?),
            None => Ok(()),
        }
    }
}

impl MemoryBackend {
    /// The file at `path`.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self {
            backend_type: MemoryBackendType::File,
            backend_path: path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<SnapshotSource, SnapshotConfigError> {
        serde_json::from_str::<SnapshotLoad>(text).unwrap().source()
    }

    #[test]
    fn memory_comes_from_one_place() {
        let old = load(r#"{"snapshot_path":"s","mem_file_path":"m"}"#).unwrap();
        let new = r#"{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}"#;
        assert_eq!(load(new).unwrap(), old);
        assert_eq!(
            load(r#"{"snapshot_path":"s"}"#),
            Err(SnapshotConfigError::OneMemory)
        );
        let both = new.replace("\"mem_backend\"", "\"mem_file_path\":\"m\",\"mem_backend\"");
        assert_eq!(load(&both), Err(SnapshotConfigError::OneMemory));
        assert_eq!(load(&new.replace("File", "Uffd")), Err(SnapshotConfigError::Uffd));
        let empty = load(&new.replace("\"m\"", "\"\"")).unwrap_err().to_string();
        assert!(empty.contains("backend_path"), "{empty}");
    }

    #[test]
    fn a_snapshot_is_full_unless_said_otherwise() {
        let text = r#"{"snapshot_path":"s","mem_file_path":"m"}"#;
        let create: SnapshotCreate = serde_json::from_str(text).unwrap();
        assert_eq!(
            (create.snapshot_type, create.validate()),
            (SnapshotType::Full, Ok(()))
        );
        let diff = SnapshotCreate {
            snapshot_type: SnapshotType::Diff,
            ..create
        };
        assert_eq!(diff.validate(), Err(SnapshotConfigError::Diff));
        let same = SnapshotCreate {
            snapshot_type: SnapshotType::Full,
            mem_file_path: diff.snapshot_path.clone(),
            ..diff
        };
        assert_eq!(same.validate(), Err(SnapshotConfigError::SamePath));
    }
}
