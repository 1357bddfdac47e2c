//! The device: a tag, and two queues for somebody else.

use std::os::fd::AsRawFd;

use event_manager::EventSet;

use super::program::Program;
use crate::virtio::config;
use crate::virtio::device::{ActivateError, Activation, BackendEvent, DeviceFault, VirtioDevice};
use crate::virtio::mmio::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::virtio::queue::QueuePosition;

/// Device type (virtio 1.2 §5.11.1).
const DEVICE_TYPE: u32 = 26;
/// The high-priority queue and one request queue (virtio 1.2 §5.11.2), as large as virtiofsd takes them.
const QUEUE_SIZES: [u16; 2] = [1024; 2];
/// Longest tag in bytes (virtio 1.2 §5.11.4).
pub const MAX_TAG: usize = 36;
/// The device configuration: the tag and the number of request queues.
const CONFIG: usize = MAX_TAG + 4;
const SOCKET: u32 = 0;

/// A file system device whose queues a [`Program`] serves.
pub struct Fs {
    program: Program,
    config: [u8; CONFIG],
}

impl Fs {
    /// A device that the guest mounts as `tag`, of which no more than [`MAX_TAG`] bytes count.
    pub fn new(tag: &str, program: Program) -> Self {
        let mut config = [0; CONFIG];
        let (name, queues) = config.split_at_mut(MAX_TAG);
        for (place, byte) in name.iter_mut().zip(tag.bytes()) {
            *place = byte;
        }
        queues.copy_from_slice(&1_u32.to_le_bytes());
        Self { program, config }
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.program.features() & (F_INDIRECT_DESC | F_EVENT_IDX)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let disabled = activation.queues.iter().position(|queue| !queue.ready());
        if let Some(index) = disabled {
            return Err(ActivateError::QueueMissing(index));
        }
        self.program
            .start(&activation)
            .map_err(|error| ActivateError::Program(Box::new(error)))
    }

    fn reset(&mut self) {
        self.program.stop();
    }

    fn is_served_elsewhere(&self) -> bool {
        true
    }

    fn process_queue(&mut self, _index: usize) -> Result<(), DeviceFault> {
        Ok(())
    }

    /// Only the program knows where they stand.
    fn queue_positions(&self) -> Vec<QueuePosition> {
        Vec::new()
    }

    fn backend_events(&self) -> Vec<BackendEvent> {
        vec![BackendEvent {
            fd: self.program.as_raw_fd(),
            events: EventSet::IN | EventSet::READ_HANG_UP,
            token: SOCKET,
        }]
    }

    fn process_backend(&mut self, _token: u32, _events: EventSet) -> Result<(), DeviceFault> {
        self.program
            .look()
            .map_err(|error| DeviceFault::Program(Box::new(error)))
    }
}
