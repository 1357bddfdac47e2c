//! Virtio 1.2: what all virtio devices share, the MMIO transport, and the devices themselves.
//!
//! A device is a folder with `device` (what the guest sees), `request` or `packet` (parsing what the guest
//! wrote) and `backend` (what the host does: sees bytes and requests, never descriptors).

pub mod adaptor;
pub mod block;
pub mod config;
pub mod device;
pub mod fs;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;

pub use adaptor::Adaptor;
pub use device::{ActivateError, Activation, BackendEvent, DeviceFault, VirtioDevice};
pub use mmio::{MmioTransport, MmioWindow, TransportError};
pub use queue::{ActiveQueue, Chain, Drained, MAX_DESCRIPTORS, QueueFault, QueueMemory, QueuePosition, Step};

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Connects a queue's doorbell (its notification register) to an eventfd, so that the guest's write never
/// reaches a vCPU thread. The monitor implements it with ioeventfds.
///
/// Attached when the driver says DRIVER_OK and detached on reset: one registered ioeventfd makes closing a VM
/// some ten milliseconds slower.
pub trait Doorbells: Send {
    /// From now on a guest's write of `queue` to the doorbell signals `event`.
    fn attach(&self, queue: u16, event: &EventFd) -> io::Result<()>;
    /// Undoes [`attach`](Doorbells::attach).
    fn detach(&self, queue: u16, event: &EventFd) -> io::Result<()>;
}
