//! I/O APIC, compatible with Intel's 82093AA (datasheet 290566, §3).
//!
//! ```text
//!  guest ─► redirection table ──MsiRouter──► routes in the hypervisor ◄── irqfd ◄── device
//! ```
//!
//! No interrupt passes through here. The guest writes the redirection table, and whenever the message of an
//! unmasked pin changes, the monitor is told to route that pin's irqfd to it. Telling costs a grace period of the
//! host kernel, so nothing is told twice.

mod entry;

use std::io;

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::state::{Metered, RestoreError, Snapshot};
pub use entry::MsiMessage;
use entry::RedirectionEntry;

/// Interrupt lines.
pub const PINS: usize = 24;

/// Register select (§3.1.1), data window (§3.1.2) and the EOI register of later versions.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;
/// Registers behind the window (§3.2).
const REG_ID: u8 = 0x00;
const REG_VERSION: u8 = 0x01;
const REG_ARBITRATION: u8 = 0x02;
const REG_TABLE: u8 = 0x10;
/// Version 0x20: with an EOI register. The highest entry's index is in bits 23:16.
const VERSION_VALUE: u32 = 0x20 | (23 << 16);
/// The ID is in bits 27:24.
const ID_SHIFT: u32 = 24;
const ID_MASK: u8 = 0xf;

const STATE_VERSION: u32 = 1;
const NAME: &str = "I/O APIC";

/// Routes interrupt lines to messages. The monitor implements it.
pub trait MsiRouter: Send {
    /// From now on an interrupt on `pin` is delivered as `message`, or not at all.
    fn route(&self, pin: u32, message: Option<MsiMessage>) -> io::Result<()>;

    /// Several of them at once, for a restore; to be overridden where that is cheaper.
    fn route_all(&self, routes: &[(u32, Option<MsiMessage>)]) -> io::Result<()> {
        routes
            .iter()
            .try_for_each(|(pin, message)| self.route(*pin, *message))
    }
}

/// Counters of the I/O APIC.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct IoApicMetrics {
    /// Routes changed.
    pub route_count: u64,
    /// Routes that the host refused; their interrupts do not arrive.
    pub route_fails: u64,
}

/// A saved [`IoApic`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoApicState {
    /// Format version, 1.
    pub version: u32,
    /// Identification register, 0 to 15.
    pub id: u8,
    /// Register select.
    pub select: u8,
    /// The redirection table, 24 entries in the datasheet's layout.
    pub entries: Vec<u64>,
}

/// The I/O APIC.
pub struct IoApic {
    id: u8,
    select: u8,
    entries: [RedirectionEntry; PINS],
    /// What the router was told last; `None` when it refused.
    routed: [Option<Option<MsiMessage>>; PINS],
    router: Box<dyn MsiRouter>,
    metrics: IoApicMetrics,
}

impl IoApic {
    /// Guest address at which a PC has its first I/O APIC.
    pub const BASE: u64 = 0xfec0_0000;
    /// Length of the device's range in bytes.
    pub const LEN: u64 = 0x1000;

    /// An I/O APIC after reset: every pin masked, nothing routed yet.
    pub fn new(router: Box<dyn MsiRouter>) -> Self {
        Self {
            id: 0,
            select: 0,
            entries: [RedirectionEntry::default(); PINS],
            routed: [Some(None); PINS],
            router,
            metrics: IoApicMetrics::default(),
        }
    }

    /// A level-triggered interrupt of `pin` was accepted: its remote IRR is set until the end of interrupt.
    pub fn accepted(&mut self, pin: u32) {
        if let Some(entry) = usize::try_from(pin)
            .ok()
            .and_then(|pin| self.entries.get_mut(pin))
        {
            entry.set_remote_irr();
        }
    }

    /// The guest ended the interrupt with `vector`. Returns the level-triggered pins it was for, one bit each: a
    /// device that still wants attention raises its interrupt again.
    pub fn eoi(&mut self, vector: u8) -> u32 {
        let mut ended = 0;
        for (entry, pin) in self.entries.iter_mut().zip(0_u32..) {
            if entry.end_of_interrupt(vector) {
                ended |= 1_u32.wrapping_shl(pin);
            }
        }
        ended
    }

    fn read_window(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => u32::from(self.id) << ID_SHIFT,
            REG_VERSION => VERSION_VALUE,
            select => self.table_index(select).map_or(0, |(pin, high)| {
                self.entries.get(pin).map_or(0, |entry| entry.half(high))
            }),
        }
    }

    fn write_window(&mut self, value: u32) {
        if self.select == REG_ID {
            let [.., top] = value.to_le_bytes();
            self.id = top & ID_MASK;
        } else if let Some((pin, high)) = self.table_index(self.select)
            && let Some(entry) = self.entries.get_mut(pin)
        {
            entry.set_half(high, value);
            self.update_route(pin);
        }
    }

    /// Entry and half behind a register of the redirection table.
    fn table_index(&self, select: u8) -> Option<(usize, bool)> {
        let index = usize::from(select.checked_sub(REG_TABLE)?);
        Some((index >> 1, index & 1 == 1))
    }

    fn update_route(&mut self, pin: usize) {
        let (Some(entry), Some(routed)) = (self.entries.get(pin), self.routed.get_mut(pin)) else {
            return;
        };
        let message = entry.message();
        if *routed == Some(message) {
            return;
        }
        let result = self.router.route(u32::try_from(pin).unwrap_or(u32::MAX), message);
        *routed = result.is_ok().then_some(message);
        let counter = if result.is_ok() {
            &mut self.metrics.route_count
        } else {
            &mut self.metrics.route_fails
        };
        *counter = counter.saturating_add(1);
    }
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (SELECT, [value, ..]) => *value = self.select,
            (WINDOW, data @ [_, _, _, _]) => data.copy_from_slice(&self.read_window().to_le_bytes()),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, [value, ..]) => self.select = *value,
            (WINDOW, &[a, b, c, d]) => self.write_window(u32::from_le_bytes([a, b, c, d])),
            (EOI, [vector, ..]) => {
                self.eoi(*vector);
            }
            _ => {}
        }
    }
}

impl Metered for IoApic {
    type Metrics = IoApicMetrics;

    fn metrics(&mut self) -> &mut IoApicMetrics {
        &mut self.metrics
    }
}

impl Snapshot for IoApic {
    type State = IoApicState;

    fn save(&self) -> IoApicState {
        IoApicState {
            version: STATE_VERSION,
            id: self.id,
            select: self.select,
            entries: self.entries.iter().map(|entry| entry.bits()).collect(),
        }
    }

    fn restore(&mut self, state: &IoApicState) -> Result<(), RestoreError> {
        RestoreError::check_version(NAME, state.version, STATE_VERSION)?;
        RestoreError::check(state.id <= ID_MASK, NAME, "id", "at most 15")?;
        let saved: [u64; PINS] = state
            .entries
            .as_slice()
            .try_into()
            .map_err(|_| RestoreError::Field {
                device: NAME,
                field: "entries",
                expected: "a table of 24 entries",
            })?;
        self.id = state.id;
        self.select = state.select;
        self.entries = saved.map(RedirectionEntry::restore);
        self.routed = self.entries.map(|entry| Some(entry.message()));
        let routes: Vec<_> = (0_u32..)
            .zip(self.entries.iter().map(RedirectionEntry::message))
            .collect();
        let wanted: Vec<_> = routes
            .into_iter()
            .filter(|(_, message)| message.is_some())
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.router
            .route_all(&wanted)
            .map_err(|source| RestoreError::Host { device: NAME, source })
    }
}

#[cfg(test)]
mod tests;
