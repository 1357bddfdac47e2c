//! Snapshots: a microVM that stands still, in two files.
//!
//! ```text
//!  snapshot_path   one line that names the format, then JSON: configuration, clock, vCPUs, devices
//!  mem_file_path   guest memory, region after region; pages of zeroes are holes
//! ```
//!
//! A third file, the working set, only makes those that go on from it faster.
//!
//! Whoever loads a snapshot trusts it as he trusts a kernel: it says what the guest runs. The VMM still checks
//! everything it reads of it, so that a damaged file is an error and nothing worse.

mod file;
pub mod memory;
mod pagemap;
mod working_set;

use std::fs::File;
use std::path::PathBuf;

use koya_api::config::{SnapshotConfigError, SnapshotSource, VmConfig, VmConfigError};
use koya_api::json::JsonError;
use serde::{Deserialize, Serialize};

use crate::kvm::KvmError;
use crate::kvm::clock::ClockState;
use crate::kvm::state::VcpuState;
use crate::machine::SavedDevices;
use crate::memory::MemoryError;
use crate::resources::open_file;
pub use working_set::WorkingSet;

/// A microVM without its memory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVm {
    /// What it was made of. Paths may lead elsewhere by the time it is loaded.
    pub config: VmConfig,
    /// The guest's clocks.
    pub clock: ClockState,
    /// The vCPUs, in order.
    pub vcpus: Vec<VcpuState>,
    /// The devices.
    pub devices: SavedDevices,
}

/// A snapshot that has been read, but for its memory, which the guest will read.
pub struct Loaded {
    /// All the rest.
    pub saved: SavedVm,
    /// The memory.
    pub memory: SavedMemory,
    /// Whether the guest stands still until it is told to go on.
    pub paused: bool,
    /// Whether its clock is moved on by the time that has passed.
    pub catch_up: bool,
}

/// The memory of a snapshot.
pub struct SavedMemory {
    /// It, region after region.
    pub file: File,
    /// What guests are known to write of it.
    pub working_set: Option<WorkingSet>,
}

impl Loaded {
    /// Opens the files and reads all but the memory.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn open(source: &SnapshotSource) -> Result<Self, SnapshotError> {
        let path = &source.mem_backend.backend_path;
        let memory = open_file("memory", "backend_path", path).map_err(|error| SnapshotError::Read {
            path: path.clone(),
            source: std::io::Error::other(error),
        })?;
        let saved = SavedVm::read(&source.snapshot_path)?;
        let working_set = source.working_set_path.as_deref().and_then(|path| {
            // It is advice; without it the guest is as well off, and slower.
            let read = WorkingSet::read(path);
            read.inspect_err(|error| log::warn!("there is no working set: {}", koya_api::one_line(error)))
                .ok()
        });
        Ok(Self {
            saved,
            memory: SavedMemory {
                file: memory,
                working_set,
            },
            paused: false,
            catch_up: false,
        })
    }
}

/// A snapshot cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The guest runs.
    #[error("the microVM runs: pause it first, by PATCH /vm with the state Paused")]
    NotPaused,
    /// A device whose state is another program's.
    #[error("the microVM has shared folders, whose programs have a state of their own")]
    SharedFolders,
    /// Something has been configured already. Firecracker's words.
    #[error("Loading a microVM snapshot not allowed after configuring boot-specific resources.")]
    Configured,
    /// It is not asked for as it should be.
    #[error(transparent)]
    Config(#[from] SnapshotConfigError),
    /// A file cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Some other file.
    #[error("{path:?} is no snapshot that this version reads: it must begin with the line {expected:?}")]
    NoSnapshot {
        /// Which.
        path: PathBuf,
        /// How one begins.
        expected: &'static str,
    },
    /// It is larger than one ever is.
    #[error("{path:?} has {length} bytes: a snapshot without its memory has at most {most}")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its length.
        length: u64,
        /// The most.
        most: u64,
    },
    /// It is damaged.
    #[error("the snapshot {path:?} is damaged")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where.
        source: JsonError,
    },
    /// It describes no possible microVM.
    #[error("the snapshot describes no possible microVM")]
    Impossible(#[source] VmConfigError),
    /// It contradicts itself.
    #[error("the snapshot has {found} vCPUs, and a configuration with {configured}")]
    Vcpus {
        /// Whose state there is.
        found: usize,
        /// What the configuration says.
        configured: u8,
    },
    /// An override for something that is not there.
    #[error("the snapshot has no {0} to override")]
    NothingToOverride(String),
    /// Nobody goes on from what it went on from.
    #[error("the microVM's memory is no snapshot's file: it has booted, or has shared folders or huge pages")]
    NoFile,
    /// Which pages have been written cannot be known.
    #[error("cannot look at the pages of the guest's memory, in /proc/self/pagemap")]
    Pages(#[source] std::io::Error),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
