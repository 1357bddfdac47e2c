//! The contract between a virtio device and the transport that carries it.

use std::os::fd::RawFd;

use event_manager::EventSet;

use super::queue::{ActiveQueue, QueueFault, QueuePosition};
use crate::memory::GuestRam;

/// What a driver has set up by the time it says DRIVER_OK (virtio 1.2 §3.1.1, step 8).
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestRam,
    /// Every queue of the device, in order. One that the driver left disabled is not [ready](ActiveQueue::ready).
    pub queues: Vec<ActiveQueue>,
    /// Features that both sides agreed on.
    pub features: u64,
}

/// The host cannot give the device what the driver asked for; the transport then sets DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A queue without which the device cannot work was left disabled.
    #[error("the driver started the device without enabling queue {0}")]
    QueueMissing(usize),
    /// The backend refused the negotiated features.
    #[error("the backend refused the features {features:#x} that the driver chose")]
    Backend {
        /// The negotiated features.
        features: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The program that serves the queues does not take them.
    #[error("the program behind the device does not start")]
    Program(#[source] Box<super::fs::ProgramError>),
}

/// The driver broke the rules (or its memory is gone) so that the device cannot go on until it is reset.
#[derive(Debug, thiserror::Error)]
pub enum DeviceFault {
    /// A ring is unusable.
    #[error("queue {index} is unusable")]
    Queue {
        /// Which queue.
        index: usize,
        /// What is wrong with it.
        source: QueueFault,
    },
    /// The program that serves the queues is gone, or broke its protocol.
    #[error("the program behind the device has failed")]
    Program(#[source] Box<super::fs::ProgramError>),
}

/// A descriptor of the backend that the event loop watches for the device.
#[derive(Debug, Clone, Copy)]
pub struct BackendEvent {
    /// Watched descriptor. Once listed it stays open for the device's whole life, and means the same.
    pub fd: RawFd,
    /// What to watch for, edge-triggered if it says so.
    pub events: EventSet,
    /// Passed back to [`VirtioDevice::process_backend`]; less than 2³¹.
    pub token: u32,
}

/// A virtio device as its transport drives it.
///
/// The transport owns status, feature negotiation and queue configuration. The device gets its queues by value
/// at DRIVER_OK and drops them on reset. `process_*` are called on the event loop only between the two.
/// A device that can be saved also is a [`Snapshot`](crate::Snapshot), and one that counts is
/// [`Metered`](crate::Metered).
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2 §5).
    fn device_type(&self) -> u32;

    /// The largest size of each queue, a power of two up to 32768. Its length is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// Device-specific features and ring features that the device offers; the transport adds VIRTIO_F_VERSION_1.
    fn features(&self) -> u64;

    /// Reads the device configuration (virtio 1.2 §2.5). Bytes beyond its end stay zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver is ready. On an error the device stays inactive.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Back to the state before [`activate`](VirtioDevice::activate): queues dropped, nothing in flight.
    fn reset(&mut self);

    /// The driver rang the doorbell of queue `index`.
    fn process_queue(&mut self, index: usize) -> Result<(), DeviceFault>;

    /// Where every queue stands, in order, while the device is active; empty otherwise.
    fn queue_positions(&self) -> Vec<QueuePosition>;

    /// Whether another process serves the queues (vhost-user): their doorbells are then its alone, and
    /// [`process_queue`](VirtioDevice::process_queue) is never called. Always the same answer.
    fn is_served_elsewhere(&self) -> bool {
        false
    }

    /// Writes the device configuration. Few devices have writable fields.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Finishes what is in flight, so that [`queue_positions`](VirtioDevice::queue_positions) and the device's
    /// state say everything. Called before a save, while the guest stands still.
    fn quiesce(&mut self) -> Result<(), DeviceFault> {
        Ok(())
    }

    /// What the event loop watches for this device while it is active. May grow later (a rate limit that is
    /// configured while the microVM runs); the transport is then told by
    /// [`MmioTransport::watch_changed`](super::mmio::MmioTransport::watch_changed).
    fn backend_events(&self) -> Vec<BackendEvent> {
        Vec::new()
    }

    /// A [`BackendEvent`] with `token` fired.
    fn process_backend(&mut self, _token: u32, _events: EventSet) -> Result<(), DeviceFault> {
        Ok(())
    }
}
