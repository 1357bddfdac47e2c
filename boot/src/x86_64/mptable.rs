//! The table of the Intel MultiProcessor Specification 1.4, for kernels that do without ACPI: processors, one
//! ISA bus, the IOAPIC and its pins.
//!
//! All pins are ISA interrupts that "conform to the bus", which means edge-triggered and active high. An ISA
//! bus has 16 of them; Linux and others take the rest as well, so that virtio devices can have pins 16 to 23.

use super::layout;
use super::machine::Machine;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOTSTRAP: u8 = 1 << 1;
const IOAPIC_ENABLED: u8 = 1;
/// Family 6, and a processor with FPU and APIC; kernels ask CPUID for the rest.
const CPU_SIGNATURE: [u8; 4] = 0x600_u32.to_le_bytes();
const CPU_FEATURES: [u8; 4] = 0x201_u32.to_le_bytes();
const ISA_BUS: u8 = 0;
const EVERY_LOCAL_APIC: u8 = 0xff;

const FLOATING_POINTER: usize = 16;
const HEADER: usize = 44;
const CHECKSUM: usize = 7;
const POINTER_CHECKSUM: usize = 10;

/// The floating pointer followed by the configuration table, for `address`, which is a multiple of 16.
pub(super) fn build(machine: &Machine<'_>, address: u32) -> Vec<u8> {
    let mut table = Table::new();
    for id in 0..machine.vcpus {
        let flags = if id == 0 {
            CPU_ENABLED | CPU_BOOTSTRAP
        } else {
            CPU_ENABLED
        };
        let [s0, s1, s2, s3] = CPU_SIGNATURE;
        let [f0, f1, f2, f3] = CPU_FEATURES;
        let processor = [
            PROCESSOR,
            id,
            LOCAL_APIC_VERSION,
            flags,
            s0,
            s1,
            s2,
            s3,
            f0,
            f1,
            f2,
            f3,
            0,
            0,
            0,
            0,
        ];
        table.add(&processor);
        table.add(&[0; 4]);
        table.entries = table.entries.saturating_add(1);
    }
    table.entry([BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a0, a1, a2, a3] = (layout::IOAPIC as u32).to_le_bytes();
    table.entry([
        IOAPIC,
        machine.ioapic_id,
        IOAPIC_VERSION,
        IOAPIC_ENABLED,
        a0,
        a1,
        a2,
        a3,
    ]);
    for pin in 0..layout::IOAPIC_PINS {
        table.entry([IO_INTERRUPT, INT, 0, 0, ISA_BUS, pin, machine.ioapic_id, pin]);
    }
    // The usual wiring of the local pins: external interrupts to the first vCPU, NMI to all.
    table.entry([LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    table.entry([LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, EVERY_LOCAL_APIC, 1]);
    table.finish(address)
}

/// A table in the making.
struct Table {
    bytes: Vec<u8>,
    entries: u16,
}

impl Table {
    fn new() -> Self {
        // Pointer and header come last; 32 vCPUs fit without growing.
        let mut bytes = Vec::with_capacity(1024);
        bytes.resize(FLOATING_POINTER + HEADER, 0);
        Self { bytes, entries: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn entry(&mut self, bytes: [u8; 8]) {
        self.add(&bytes);
        self.entries = self.entries.saturating_add(1);
    }

    fn finish(mut self, address: u32) -> Vec<u8> {
        let length = self.bytes.len().saturating_sub(FLOATING_POINTER);
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        let table = address.saturating_add(FLOATING_POINTER as u32);

        let mut pointer = [0; FLOATING_POINTER];
        put(&mut pointer, 0, b"_MP_");
        put(&mut pointer, 4, &table.to_le_bytes());
        // Length in units of 16 bytes, and specification 1.4.
        put(&mut pointer, 8, &[1, 4]);
        let sum = checksum(&pointer);
        put(&mut pointer, POINTER_CHECKSUM, &[sum]);

        let mut header = [0; HEADER];
        put(&mut header, 0, b"PCMP");
        put(&mut header, 4, &length.to_le_bytes());
        put(&mut header, 6, &[4]);
        put(&mut header, 8, b"KOYA    MICROVM     ");
        put(&mut header, 34, &self.entries.to_le_bytes());
        put(&mut header, 36, &(layout::LOCAL_APIC as u32).to_le_bytes());
        put(&mut self.bytes, FLOATING_POINTER, &header);
        put(&mut self.bytes, 0, &pointer);
        let sum = checksum(self.bytes.get(FLOATING_POINTER..).unwrap_or_default());
        put(&mut self.bytes, FLOATING_POINTER + CHECKSUM, &[sum]);
        self.bytes
    }
}

/// Overwrites bytes from `offset` on.
fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}

/// The byte that makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    /// Walks the table as a kernel does and returns its entries.
    fn entries(bytes: &[u8]) -> Vec<&[u8]> {
        let count = u16::from_le_bytes(bytes[16 + 34..16 + 36].try_into().unwrap());
        let mut rest = &bytes[60..];
        let mut entries = Vec::new();
        for _ in 0..count {
            let length = if rest[0] == PROCESSOR { 20 } else { 8 };
            let (entry, after) = rest.split_at(length);
            entries.push(entry);
            rest = after;
        }
        assert!(rest.is_empty(), "the entry count covers the whole table");
        entries
    }

    #[test]
    fn pointer_and_table_add_up() {
        for vcpus in [1, 2, 32, 254] {
            let machine = Machine {
                vcpus,
                virtio_mmio: &[],
                serial: None,
                i8042: false,
                ioapic_id: vcpus,
            };
            let bytes = build(&machine, 0xf_0800);
            assert_eq!(&bytes[..4], b"_MP_");
            assert_eq!(u32::from_le_bytes(bytes[4..8].try_into().unwrap()), 0xf_0810);
            assert_eq!(sum(&bytes[..16]), 0);
            let length = u16::from_le_bytes(bytes[20..22].try_into().unwrap());
            assert_eq!(usize::from(length), bytes.len() - 16);
            assert_eq!(&bytes[16..20], b"PCMP");
            assert_eq!(sum(&bytes[16..]), 0);

            let entries = entries(&bytes);
            let of = |kind| entries.iter().filter(move |entry| entry[0] == kind);
            let ids: Vec<_> = of(PROCESSOR).map(|entry| (entry[1], entry[3])).collect();
            assert_eq!(ids[0], (0, CPU_ENABLED | CPU_BOOTSTRAP));
            assert!(
                ids.iter()
                    .skip(1)
                    .enumerate()
                    .all(|(index, &id)| id == (index as u8 + 1, CPU_ENABLED))
            );
            assert_eq!(ids.len(), usize::from(vcpus));
            let ioapic = of(IOAPIC).next().unwrap();
            assert_eq!((ioapic[1], &ioapic[4..]), (vcpus, [0, 0, 0xc0, 0xfe].as_slice()));
            let pins: Vec<_> = of(IO_INTERRUPT)
                .map(|entry| (entry[5], entry[6], entry[7]))
                .collect();
            assert_eq!(pins, (0..24).map(|pin| (pin, vcpus, pin)).collect::<Vec<_>>());
            assert_eq!(of(LOCAL_INTERRUPT).count(), 2);
        }
    }
}
