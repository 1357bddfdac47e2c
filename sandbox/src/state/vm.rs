//! What is known of a microVM.

use serde::{Deserialize, Serialize};

/// How a microVM is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmSettings {
    /// Processors, 1 to 32.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size in bytes of the disk that takes what its containers write.
    pub storage: u64,
    /// How many containers it can hold at a time, 1 to [`Vm::MAX_ROOMS`].
    pub rooms: usize,
    /// Network devices: at most one for each network of each container. 0: its containers have no network.
    #[serde(default)]
    pub cards: usize,
}

/// A microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// That of its first container.
    pub id: String,
    /// How it was asked for.
    pub settings: VmSettings,
    /// The monitor's process, while it runs.
    pub monitor_pid: Option<u32>,
    /// The VMM's process, while it runs.
    pub vmm_pid: Option<u32>,
}

impl Vm {
    /// Most containers in one microVM: each has a disk and a network device of its own, of which the interrupt lines allow
    /// no more.
    pub const MAX_ROOMS: usize = 7;
    /// Most network devices.
    pub const MAX_CARDS: usize = 7;

    /// One that has never run.
    pub(super) fn new(id: &str, settings: VmSettings) -> Self {
        Self {
            id: id.to_owned(),
            settings,
            monitor_pid: None,
            vmm_pid: None,
        }
    }
}
