//! What a PC's firmware would leave for the kernel: ACPI tables and the MP table, in one block of bytes for one write.

use super::machine::Machine;
use super::{acpi, layout, mptable};

/// Every table begins on a multiple of this; RSDP and MP floating pointer must.
const ALIGN: usize = 16;
/// Room at the front for the RSDP, whose 36 bytes are known last.
const FIRST: usize = 48;

/// The block in the making. It goes to [`layout::FIRMWARE`].
pub(super) struct Firmware {
    bytes: Vec<u8>,
}

/// Builds all tables for a machine that passed its check.
pub(super) fn build(machine: &Machine<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    bytes.resize(FIRST, 0);
    let mut firmware = Firmware { bytes };
    acpi::add_tables(&mut firmware, machine);
    let mp_table = mptable::build(machine, firmware.next_address() as u32);
    firmware.add(&mp_table);
    firmware.bytes
}

impl Firmware {
    /// Where the next table goes.
    fn next_address(&self) -> u64 {
        let offset = self.bytes.len().next_multiple_of(ALIGN) as u64;
        layout::FIRMWARE.saturating_add(offset)
    }

    /// Appends a table and returns its address.
    pub fn add(&mut self, table: &[u8]) -> u64 {
        let address = self.next_address();
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        self.bytes.extend_from_slice(table);
        address
    }

    /// Fills the room at the front.
    pub fn put_first(&mut self, table: &[u8]) {
        for (to, from) in self.bytes.iter_mut().take(FIRST).zip(table) {
            *to = *from;
        }
    }
}
