//! What a microVM is configured with: one file per noun, plain serde data.
//!
//! Every type refuses unknown and duplicate fields. `validate` checks what needs no file system; whether a path exists
//! is found out where it is opened.

mod boot_source;
mod drive;
mod entropy;
mod file;
mod id;
mod logger;
mod mac;
mod machine;
mod metrics;
mod network;
mod not_yet;
mod number;
mod path;
mod rate_limiter;
mod serial;
mod shared_folder;
mod snapshot;
mod vm;
mod vsock;

pub use boot_source::BootSource;
pub use drive::{CacheType, Drive, DriveBackend, DriveConfigError, DriveUpdate, IoEngine};
pub use entropy::Entropy;
pub use file::{ConfigFileError, MAX_CONFIG_FILE_BYTES};
pub use id::{IdError, MAX_ID_CHARS, check_file_id, check_id, check_instance_id};
pub use logger::{LogLevel, Logger};
pub use mac::{MacAddress, MacParseError};
pub use machine::{
    CpuTemplate, DEFAULT_MEM_SIZE_MIB, HugePages, MAX_VCPUS, MachineConfig, MachineConfigError,
    MachineConfigUpdate,
};
pub use metrics::Metrics;
pub use network::{MIN_MTU, NetworkConfigError, NetworkInterface, NetworkInterfaceUpdate};
pub use not_yet::NotYet;
pub use path::{PathError, check_path};
pub use rate_limiter::{RateLimiter, TokenBucket};
pub use serial::Serial;
pub use shared_folder::{MAX_TAG_BYTES, SharedFolder, SharedFolderError};
pub use snapshot::{
    MemoryBackend, MemoryBackendType, NetworkOverride, SnapshotConfigError, SnapshotCreate, SnapshotLoad,
    SnapshotSource, SnapshotType, VsockOverride, WorkingSetNote,
};
pub use vm::{VmConfig, VmConfigError};
pub use vsock::Vsock;
