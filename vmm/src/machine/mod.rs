//! Building a microVM. Each phase is a type and consumes the one before.
//!
//! ```text
//!  Resources ─► Frame ──────► Wired ───────────► Bootable ─────────► Running ⇄ paused
//!  opened files  memory, VM,   devices on the     kernel and tables    vCPU threads
//!                interrupts    buses              placed, vCPUs set
//! ```

mod devices;
mod frame;
mod legacy;
mod limits;
mod plug;
mod running;
mod saved;
mod windows;
mod wired;

use std::io;

use koya_api::error::Cause;
use koya_boot::{BootError, CmdlineError};
use koya_devices::BusError;
use koya_devices::virtio::net::NetError;

use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::snapshot::SnapshotError;
use crate::vcpu::VcpuThreadError;

pub use frame::Frame;
pub use plug::PlugError;
pub use running::{Running, UpdateError};
pub use saved::SavedDevices;
pub use wired::{Bootable, Wired};

/// The microVM cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing to boot.
    #[error(
        "Cannot start microvm without kernel configuration: boot-source with a kernel_image_path is missing"
    )]
    NoKernel,
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// System call filters.
    #[error("cannot install the system call filter; --no-seccomp does without")]
    Seccomp(#[source] io::Error),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The devices do not fit on a bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The command line became too long.
    #[error("the kernel command line cannot be completed")]
    Cmdline(#[from] CmdlineError),
    /// The kernel, the initrd or the tables.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device.
    #[error("cannot set up {device}")]
    Device {
        /// Which.
        device: String,
        /// Why.
        source: Cause,
    },
    /// More windows than interrupts.
    #[error(
        "`spare_devices` is too large: with the devices that are configured there can be {max} in all",
        max = koya_boot::layout::VIRTIO_MMIO_SLOTS
    )]
    SpareDevices,
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The vCPU threads.
    #[error(transparent)]
    Threads(#[from] VcpuThreadError),
    /// An event descriptor.
    #[error("cannot create an event descriptor")]
    Event(#[source] io::Error),
}

impl StartError {
    /// Names the device, for `map_err`.
    fn device<E: Into<Cause>>(device: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Device {
            device: device.into(),
            source: source.into(),
        }
    }
}

impl From<NetError> for StartError {
    fn from(error: NetError) -> Self {
        Self::device("a network interface")(error)
    }
}
