//! The register map (virtio 1.2 §4.2.2) and what the driver has written there.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};

use crate::memory::GuestRam;
use crate::virtio::queue::QueuePosition;

/// "virt" in ASCII.
pub const MAGIC: u32 = 0x7472_6976;
/// Version of the register layout without the legacy interface.
pub const LAYOUT_VERSION: u32 = 2;
/// "KOYA" in ASCII. Drivers do not look at it.
pub const VENDOR: u32 = 0x4159_4f4b;
/// Where the device configuration begins. Registers lie below.
pub const CONFIG_SPACE: u64 = 0x100;
/// Bytes that one transport takes on the bus.
pub const WINDOW_SIZE: u64 = 0x1000;
/// Offset of QueueNotify, for the doorbells.
pub const QUEUE_NOTIFY: u64 = 0x050;

/// Offsets of the other registers.
pub mod offset {
    #![allow(missing_docs)]
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_SEL: u64 = 0x0ac;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
}

/// Bits of the device status (virtio 1.2 §2.1).
pub mod status {
    #![allow(missing_docs)]
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
    /// Everything a driver sets on the way up.
    pub const ALL_STEPS: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

    /// Whether the initialisation sequence (virtio 1.2 §3.1.1) can lead to `status`.
    pub fn reachable(status: u32) -> bool {
        let steps = status & ALL_STEPS;
        let known = status & !(ALL_STEPS | NEEDS_RESET | FAILED) == 0;
        known && [0, 1, 3, 11, 15].contains(&steps)
    }
}

/// The configuration of one queue, as the driver wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRegisters {
    /// Descriptors; 0 after the driver wrote a size that the queue cannot have.
    pub size: u16,
    /// Whether the driver enabled it.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub desc_table: u64,
    /// Guest address of the available ring ("driver area").
    pub avail_ring: u64,
    /// Guest address of the used ring ("device area").
    pub used_ring: u64,
}

impl QueueRegisters {
    /// A queue that no driver has touched.
    pub fn new(max_size: u16) -> Self {
        Self {
            size: max_size,
            ready: false,
            desc_table: 0,
            avail_ring: 0,
            used_ring: 0,
        }
    }

    /// Takes a size from the driver.
    pub fn set_size(&mut self, size: u32, max_size: u16) -> bool {
        let valid = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= max_size);
        self.size = valid.unwrap_or(0);
        valid.is_some()
    }

    /// The queue that a device works on, or `None` when a ring is misaligned or not inside guest memory.
    /// A disabled queue may hold anything.
    pub fn build(
        &self,
        max_size: u16,
        position: QueuePosition,
        event_index: bool,
        memory: &GuestRam,
    ) -> Option<Queue> {
        if !self.ready {
            return Queue::new(max_size).ok();
        }
        let queue = Queue::try_from(QueueState {
            max_size,
            next_avail: position.next_avail,
            next_used: position.next_used,
            event_idx_enabled: event_index,
            size: self.size,
            ready: true,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        })
        .ok()?;
        // The queue implementation takes an available ring at address 0 for one that was never set.
        (self.avail_ring != 0 && queue.is_valid(memory)).then_some(queue)
    }
}

/// Every register that holds what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registers {
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
    /// Changes whenever the device configuration does.
    pub config_generation: u32,
    /// The queues.
    pub queues: Vec<QueueRegisters>,
}

impl Registers {
    /// Registers after a reset.
    pub fn new(max_sizes: &[u16]) -> Self {
        Self {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            config_generation: 0,
            queues: max_sizes.iter().map(|size| QueueRegisters::new(*size)).collect(),
        }
    }

    /// The selected queue, if there is one.
    pub fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// Whether all bits of `set` are set in the status and none of `clear`.
    pub fn status_is(&self, set: u32, clear: u32) -> bool {
        self.status & set == set && self.status & clear == 0
    }
}

/// Puts `value` into the low or high half of `register`.
pub fn set_half(register: &mut u64, high: bool, value: u32) {
    let value = u64::from(value);
    *register = if high {
        (*register & 0xffff_ffff) | (value << 32)
    } else {
        (*register >> 32 << 32) | value
    };
}

/// The low or high half of `register`, by a selector that is 0 or 1; any other half is zero.
pub fn half(register: u64, select: u32) -> u32 {
    let shifted = match select {
        0 => register & 0xffff_ffff,
        1 => register >> 32,
        _ => 0,
    };
    u32::try_from(shifted).unwrap_or(0)
}
