//! Virtio over MMIO, version 2 (virtio 1.2 §4.2).
//!
//! ```text
//!            0      ACKNOWLEDGE    DRIVER     FEATURES_OK     DRIVER_OK
//!  reset ──► ○ ────────► ○ ─────────► ○ ──────────► ○ ─────────────► ●  device active
//!                          features written ┘   queues written ┘      nothing can be changed any more
//! ```
//!
//! The transport owns the registers. What the driver configured is frozen once it is used: features at FEATURES_OK,
//! queues at DRIVER_OK, when the device gets them by value. Only a reset gives them back. Writes at the wrong
//! moment are counted and otherwise ignored.

pub mod interrupt;
mod lifecycle;
pub mod registers;
mod spare;
mod state;
mod window;

use std::io;
use std::sync::Arc;

use event_manager::EventSet;
use serde::Serialize;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::interrupt::Interrupt;
use self::registers::{
    CONFIG_SPACE, LAYOUT_VERSION, MAGIC, QUEUE_NOTIFY, QueueRegisters, Registers, VENDOR, half, offset,
    set_half, status,
};
use super::device::{ActivateError, BackendEvent, DeviceFault, VirtioDevice};
use super::{Doorbells, config};
use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;
use crate::state::Metered;
pub use registers::WINDOW_SIZE;
pub use spare::SpareWindow;
pub use state::{MmioState, QueueConfig};
pub use window::MmioWindow;

/// VIRTIO_F_VERSION_1 (virtio 1.2 §6).
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;

/// Stands in for a queue's index where only the event loop is meant.
const NO_QUEUE: u32 = (1 << 31) - 1;

/// Something went wrong between a driver, its device and the host. Passed to the handler of
/// [`MmioTransport::on_fault`].
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The driver enabled a queue that cannot work; the device needs a reset.
    #[error("queue {0} has rings that are misaligned or not inside one region of guest memory")]
    QueueInvalid(usize),
    /// The device could not be started; it needs a reset.
    #[error("the device does not start")]
    Activate(#[source] ActivateError),
    /// The device stopped; it needs a reset.
    #[error("the device stopped")]
    Device(#[source] DeviceFault),
    /// The doorbell of a queue stays on the slow path through the bus.
    #[error("cannot connect the doorbell of queue {queue} to its event")]
    Doorbell {
        /// Which queue.
        queue: u16,
        /// Why.
        source: io::Error,
    },
    /// The driver could not be told of a change.
    #[error("cannot interrupt the guest")]
    Interrupt(#[source] io::Error),
    /// An event of the device cannot be watched.
    #[error("cannot watch an event of the device")]
    Watch(#[source] event_manager::Error),
}

/// Hears of every [`TransportError`]. A guest can cause them as fast as it likes: limit what is logged.
pub type FaultHandler = Box<dyn Fn(&TransportError) + Send>;

/// Counters of one transport.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct TransportMetrics {
    /// Drivers that said DRIVER_OK and got DEVICE_NEEDS_RESET.
    pub activate_fails: u64,
    /// Register accesses of a wrong size or at a wrong moment.
    pub cfg_fails: u64,
    /// Faults while the device was running.
    pub event_fails: u64,
}

/// A virtio device on the MMIO bus.
pub struct MmioTransport<D> {
    device: D,
    memory: GuestRam,
    interrupt: Arc<Interrupt>,
    doorbells: Box<dyn Doorbells>,
    events: Vec<Arc<EventFd>>,
    /// Wakes the event loop: the first doorbell, or an event of its own if the doorbells are another process's.
    wake: Option<Arc<EventFd>>,
    /// Queues whose doorbell is connected to its event.
    attached: Vec<u16>,
    registers: Registers,
    active: bool,
    /// The configuration changed under a driver that is not ready for an interrupt yet.
    config_news: bool,
    watch_generation: u64,
    metrics: TransportMetrics,
    fault_handler: Option<FaultHandler>,
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// Puts `device` behind a set of registers. `line` is the device's interrupt.
    ///
    /// Fails if the host gives no events.
    pub fn new(
        device: D,
        memory: GuestRam,
        line: Arc<dyn InterruptLine>,
        doorbells: Box<dyn Doorbells>,
    ) -> io::Result<Self> {
        let sizes = device.queue_max_sizes();
        let event = || EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new);
        let events = sizes.iter().map(|_| event()).collect::<io::Result<Vec<_>>>()?;
        let wake = match device.is_served_elsewhere() {
            true => Some(event()?),
            false => events.first().cloned(),
        };
        Ok(Self {
            registers: Registers::new(sizes),
            device,
            memory,
            interrupt: Arc::new(Interrupt::new(line)),
            doorbells,
            events,
            wake,
            attached: Vec::new(),
            active: false,
            config_news: false,
            watch_generation: 0,
            metrics: TransportMetrics::default(),
            fault_handler: None,
        })
    }

    /// Sets who hears of faults.
    pub fn on_fault(&mut self, handler: FaultHandler) {
        self.fault_handler = Some(handler);
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device. After changing its configuration call [`config_changed`](Self::config_changed), after giving it
    /// something new to watch call [`watch_changed`](Self::watch_changed).
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The events of the queues' doorbells, in order.
    pub fn queue_events(&self) -> &[Arc<EventFd>] {
        &self.events
    }

    /// Whether the device is between DRIVER_OK and reset, and healthy.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Tells the driver that the device configuration changed (virtio 1.2 §2.5.1 and §4.2.2).
    pub fn config_changed(&mut self) {
        self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
        if self.active {
            self.interrupt_config();
        } else {
            self.config_news = true;
        }
    }

    /// Lets the event adaptor look again at what the device wants to have watched.
    pub fn watch_changed(&mut self) {
        self.watch_generation = self.watch_generation.wrapping_add(1);
        if let Some(event) = &self.wake {
            // Fails only when the counter is full, and then it is readable already.
            let _ = event.write(1);
        }
    }

    /// The events that are watched all the time, each with what to pass to [`process_queue`](Self::process_queue).
    pub(super) fn watched_events(&self) -> Vec<(Arc<EventFd>, u32)> {
        match self.device.is_served_elsewhere() {
            true => self.wake.iter().cloned().zip([NO_QUEUE]).collect(),
            false => self.events.iter().cloned().zip(0..NO_QUEUE).collect(),
        }
    }

    /// What must be watched now, with a number that changes whenever the answer may have.
    pub(super) fn watches(&self) -> Vec<BackendEvent> {
        if self.active {
            self.device.backend_events()
        } else {
            Vec::new()
        }
    }

    pub(super) fn watch_generation(&self) -> u64 {
        self.watch_generation
    }

    /// The event of queue `index` fired.
    pub(super) fn process_queue(&mut self, index: u32) {
        if index == NO_QUEUE {
            if let Some(event) = &self.wake {
                let _ = event.read();
            }
            return;
        }
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(event) = self.events.get(index) {
            // Empty when somebody else was faster: then there is nothing lost in looking.
            let _ = event.read();
        }
        if self.active
            && let Err(fault) = self.device.process_queue(index)
        {
            self.fail(fault);
        }
    }

    /// A backend event of the device fired.
    pub(super) fn process_backend(&mut self, token: u32, events: EventSet) {
        if self.active
            && let Err(fault) = self.device.process_backend(token, events)
        {
            self.fail(fault);
        }
    }

    pub(super) fn report(&mut self, error: &TransportError) {
        if let Some(handler) = &self.fault_handler {
            handler(error);
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | F_VERSION_1
    }

    fn max_size(&self, queue: u32) -> u16 {
        let index = usize::try_from(queue).ok();
        index
            .and_then(|index| self.device.queue_max_sizes().get(index))
            .copied()
            .unwrap_or(0)
    }

    fn read_register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            offset::MAGIC_VALUE => MAGIC,
            offset::VERSION => LAYOUT_VERSION,
            offset::DEVICE_ID => self.device.device_type(),
            offset::VENDOR_ID => VENDOR,
            offset::DEVICE_FEATURES => half(self.features(), registers.device_features_select),
            offset::QUEUE_NUM_MAX => self.max_size(registers.queue_select).into(),
            offset::QUEUE_READY => registers.queue().is_some_and(|queue| queue.ready).into(),
            offset::INTERRUPT_STATUS => self.interrupt.status(),
            offset::STATUS => registers.status,
            offset::CONFIG_GENERATION => registers.config_generation,
            // There are no shared memory regions: their length and base read as -1 (virtio 1.2 §4.2.2.1).
            offset::SHM_LEN_LOW..=offset::SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    /// Returns whether the write made sense.
    fn write_register(&mut self, offset: u64, value: u32) -> bool {
        match offset {
            offset::DEVICE_FEATURES_SEL => self.registers.device_features_select = value,
            offset::DRIVER_FEATURES_SEL => self.registers.driver_features_select = value,
            offset::DRIVER_FEATURES => return self.choose_features(value),
            offset::QUEUE_SEL => self.registers.queue_select = value,
            QUEUE_NOTIFY => return window::ring(&self.events, value),
            offset::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            offset::STATUS => return self.write_status(value),
            offset::SHM_SEL => {}
            offset::QUEUE_NUM..=offset::QUEUE_DEVICE_HIGH => return self.configure_queue(offset, value),
            _ => return false,
        }
        true
    }

    /// Features can be chosen between DRIVER and FEATURES_OK.
    fn choose_features(&mut self, value: u32) -> bool {
        let registers = &mut self.registers;
        let select = registers.driver_features_select;
        let open = status::FEATURES_OK | status::FAILED | status::NEEDS_RESET;
        if !registers.status_is(status::DRIVER, open) {
            return false;
        }
        if select > 1 {
            // Features beyond 64 are not offered; saying so is no misuse.
            return value == 0;
        }
        set_half(&mut registers.driver_features, select == 1, value);
        true
    }

    /// Queues can be configured between FEATURES_OK and DRIVER_OK, each until it is enabled.
    fn configure_queue(&mut self, offset: u64, value: u32) -> bool {
        let max_size = self.max_size(self.registers.queue_select);
        let closed = status::DRIVER_OK | status::FAILED | status::NEEDS_RESET;
        let open = self.registers.status_is(status::FEATURES_OK, closed);
        let index = usize::try_from(self.registers.queue_select).unwrap_or(usize::MAX);
        let Some(queue) = self.registers.queues.get_mut(index).filter(|_| open) else {
            return false;
        };
        if offset == offset::QUEUE_READY {
            return enable(queue, value);
        }
        if queue.ready {
            return false;
        }
        match offset {
            offset::QUEUE_NUM => return queue.set_size(value, max_size),
            offset::QUEUE_DESC_LOW => set_half(&mut queue.desc_table, false, value),
            offset::QUEUE_DESC_HIGH => set_half(&mut queue.desc_table, true, value),
            offset::QUEUE_DRIVER_LOW => set_half(&mut queue.avail_ring, false, value),
            offset::QUEUE_DRIVER_HIGH => set_half(&mut queue.avail_ring, true, value),
            offset::QUEUE_DEVICE_LOW => set_half(&mut queue.used_ring, false, value),
            offset::QUEUE_DEVICE_HIGH => set_half(&mut queue.used_ring, true, value),
            _ => return false,
        }
        true
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> bool {
        let open = self
            .registers
            .status_is(status::DRIVER, status::FAILED | status::NEEDS_RESET);
        if open {
            self.device.write_config(offset, data);
        }
        open
    }
}

/// A queue with an impossible size cannot be enabled.
fn enable(queue: &mut QueueRegisters, value: u32) -> bool {
    match value {
        0 => queue.ready = false,
        1 if queue.size > 0 => queue.ready = true,
        _ => return false,
    }
    true
}

impl<D: VirtioDevice> BusDevice for MmioTransport<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset.checked_sub(CONFIG_SPACE) {
            Some(offset) => self.device.read_config(offset, data),
            None if data.len() == 4 && offset.is_multiple_of(4) => {
                config::read(&self.read_register(offset).to_le_bytes(), 0, data);
            }
            None => self.misused(),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let made_sense = match (offset.checked_sub(CONFIG_SPACE), <[u8; 4]>::try_from(data)) {
            (Some(offset), _) => self.write_config(offset, data),
            (None, Ok(bytes)) if offset.is_multiple_of(4) => {
                self.write_register(offset, u32::from_le_bytes(bytes))
            }
            _ => false,
        };
        if !made_sense {
            self.misused();
        }
    }
}

impl<D> MmioTransport<D> {
    fn misused(&mut self) {
        self.metrics.cfg_fails = self.metrics.cfg_fails.saturating_add(1);
    }
}

impl<D> Metered for MmioTransport<D> {
    type Metrics = TransportMetrics;

    fn metrics(&mut self) -> &mut TransportMetrics {
        &mut self.metrics
    }
}

#[cfg(test)]
mod tests;
