//! A transport and its device, saved and brought back.

use serde::{Deserialize, Serialize};

use super::registers::{QueueRegisters, Registers, status};
use super::{F_VERSION_1, MmioTransport, TransportError};
use crate::state::{RestoreError, Snapshot};
use crate::virtio::device::VirtioDevice;
use crate::virtio::queue::QueuePosition;

const VERSION: u32 = 1;
const NAME: &str = "virtio-mmio transport";

/// A saved [`MmioTransport`] with a device whose state is `S`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState<S> {
    /// Format version, 1.
    pub version: u32,
    /// Virtio device type, to tell a swapped file.
    pub device_type: u32,
    /// Device status.
    pub status: u32,
    /// Which half of the device's features can be read.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// The features that the driver chose.
    pub driver_features: u64,
    /// The queue that the queue registers mean.
    pub queue_select: u32,
    /// Counter of configuration changes.
    pub config_generation: u32,
    /// Interrupts not yet acknowledged.
    pub interrupt_status: u32,
    /// The queues, in order.
    pub queues: Vec<QueueConfig>,
    /// The device's own state.
    pub device: S,
}

/// A saved queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// What the driver configured.
    pub registers: QueueRegisters,
    /// How far the device has come.
    pub position: QueuePosition,
}

impl<D> Snapshot for MmioTransport<D>
where
    D: VirtioDevice + Snapshot,
{
    type State = MmioState<D::State>;

    /// Call [`quiesce`](MmioTransport::quiesce) first.
    fn save(&self) -> Self::State {
        let registers = &self.registers;
        let mut positions = self.device.queue_positions().into_iter();
        let queues = registers.queues.iter();
        MmioState {
            version: VERSION,
            device_type: self.device.device_type(),
            status: registers.status,
            device_features_select: registers.device_features_select,
            driver_features_select: registers.driver_features_select,
            driver_features: registers.driver_features,
            queue_select: registers.queue_select,
            config_generation: registers.config_generation,
            interrupt_status: self.interrupt.status(),
            queues: queues
                .map(|queue| QueueConfig {
                    registers: *queue,
                    position: positions.next().unwrap_or_default(),
                })
                .collect(),
            device: self.device.save(),
        }
    }

    fn restore(&mut self, state: &Self::State) -> Result<(), RestoreError> {
        RestoreError::check_version(NAME, state.version, VERSION)?;
        self.check(state)?;
        self.reset();
        self.device.restore(&state.device)?;
        self.registers = Registers {
            status: state.status,
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            config_generation: state.config_generation,
            queues: state.queues.iter().map(|queue| queue.registers).collect(),
        };
        let host = |source| RestoreError::Host { device: NAME, source };
        self.interrupt.restore(state.interrupt_status).map_err(host)?;
        if self.registers.status_is(status::FEATURES_OK, 0) {
            self.features_still_offered()?;
        }
        let stopped = status::FAILED | status::NEEDS_RESET;
        if self.registers.status_is(status::DRIVER_OK, stopped) {
            self.resume(&state.queues)?;
        }
        Ok(())
    }
}

impl<D: VirtioDevice + Snapshot> MmioTransport<D> {
    fn check(&self, state: &MmioState<D::State>) -> Result<(), RestoreError> {
        let check = |valid, field, expected| RestoreError::check(valid, NAME, field, expected);
        let sizes = self.device.queue_max_sizes();
        check(
            state.device_type == self.device.device_type(),
            "device_type",
            "the type of this device",
        )?;
        check(
            status::reachable(state.status),
            "status",
            "one that the initialisation sequence leads to",
        )?;
        check(state.interrupt_status <= 3, "interrupt_status", "at most 3")?;
        check(
            state.queues.len() == sizes.len(),
            "queues",
            "as many as the device has",
        )?;
        for (queue, max_size) in state.queues.iter().zip(sizes) {
            let QueueRegisters { size, ready, .. } = queue.registers;
            let valid = (size.is_power_of_two() && size <= *max_size) || (size == 0 && !ready);
            check(valid, "queues.size", "a power of two up to the queue's maximum")?;
        }
        Ok(())
    }

    fn features_still_offered(&self) -> Result<(), RestoreError> {
        let chosen = self.registers.driver_features;
        let valid = chosen & !self.features() == 0 && chosen & F_VERSION_1 != 0;
        RestoreError::check(valid, NAME, "driver_features", "features that the device offers")
    }

    fn resume(&mut self, queues: &[QueueConfig]) -> Result<(), RestoreError> {
        let positions: Vec<_> = queues.iter().map(|queue| queue.position).collect();
        self.start(&positions).map_err(|error| match error {
            TransportError::Activate(error) => RestoreError::Activate(error),
            _ => RestoreError::Field {
                device: NAME,
                field: "queues",
                expected: "rings inside guest memory",
            },
        })?;
        // A doorbell rung before the save is not in the state: look at every queue once.
        for (queue, event) in queues.iter().zip(&self.events) {
            if queue.registers.ready {
                let _ = event.write(1);
            }
        }
        Ok(())
    }
}
