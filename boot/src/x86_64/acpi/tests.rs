//! Reads the tables back as a kernel does: from the RSDP, by pointers and checksums.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::x86_64::firmware;
use crate::x86_64::layout;
use crate::x86_64::machine::{SerialPort, VirtioMmio};

struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    fn of(machine: &Machine<'_>) -> Self {
        let bytes = firmware::build(machine);
        Self { bytes }
    }

    fn at(&self, address: u64, length: usize) -> &[u8] {
        let offset = usize::try_from(address - layout::FIRMWARE).unwrap();
        &self.bytes[offset..offset + length]
    }

    fn u64_at(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.at(address, 8).try_into().unwrap())
    }

    /// A table by its address: its checksum must hold.
    fn table(&self, address: u64, signature: &[u8; 4]) -> &[u8] {
        let length = u32::from_le_bytes(self.at(address + 4, 4).try_into().unwrap());
        let table = self.at(address, length as usize);
        assert_eq!(&table[..4], signature);
        assert_eq!(
            sum(table),
            0,
            "checksum of {}",
            String::from_utf8_lossy(signature)
        );
        table
    }

    fn xsdt(&self) -> Vec<u64> {
        let rsdp = self.at(layout::RSDP, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(rsdp[15], 2, "revision");
        assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
        let xsdt = self.table(self.u64_at(layout::RSDP + 24), b"XSDT");
        let pointers = xsdt[36..].chunks_exact(8);
        pointers
            .map(|pointer| u64::from_le_bytes(pointer.try_into().unwrap()))
            .collect()
    }

    fn fadt(&self) -> &[u8] {
        self.table(self.xsdt()[0], b"FACP")
    }

    fn madt(&self) -> &[u8] {
        self.table(self.xsdt()[1], b"APIC")
    }

    fn dsdt(&self) -> &[u8] {
        let address = u64::from_le_bytes(self.fadt()[140..148].try_into().unwrap());
        self.table(address, b"DSDT")
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn devices(count: usize) -> Vec<VirtioMmio> {
    let slots = (0..count).map(|index| layout::virtio_mmio_slot(index).unwrap());
    let length = layout::VIRTIO_MMIO_SLOT_LENGTH;
    slots
        .map(|(address, gsi)| VirtioMmio { address, length, gsi })
        .collect()
}

fn machine(vcpus: u8, virtio_mmio: &[VirtioMmio]) -> Machine<'_> {
    Machine {
        vcpus,
        virtio_mmio,
        serial: Some(SerialPort::COM1),
        i8042: true,
        ioapic_id: vcpus,
    }
}

#[test]
fn every_table_is_reachable_and_adds_up() {
    for (vcpus, count) in [(1, 0), (2, 1), (32, 19), (254, 19)] {
        let devices = devices(count);
        let tables = Tables::of(&machine(vcpus, &devices));
        assert_eq!(tables.xsdt().len(), 2);
        assert_eq!(
            (tables.fadt().len(), tables.madt().len()),
            (276, 56 + 8 * usize::from(vcpus))
        );
        assert!(tables.dsdt().len() > 36);
        let room = layout::FIRMWARE_END - layout::FIRMWARE;
        assert!(
            tables.bytes.len() as u64 <= room,
            "the firmware window holds the largest machine"
        );
    }
}

#[test]
fn the_fadt_describes_a_reduced_machine_that_resets_and_powers_off() {
    let tables = Tables::of(&machine(1, &[]));
    let fadt = tables.fadt();
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register");
    assert_eq!(u16::from_le_bytes(fadt[109..111].try_into().unwrap()), 0b10_0111);
    // Generic addresses: I/O space, 8 bits, byte access, the port.
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[128], 0xfe);
    assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[76..80], [0; 4], "no PM timer");
}

#[test]
fn a_machine_without_legacy_devices_says_so() {
    let bare = Machine {
        serial: None,
        i8042: false,
        ..machine(1, &[])
    };
    let tables = Tables::of(&bare);
    assert_eq!(
        u16::from_le_bytes(tables.fadt()[109..111].try_into().unwrap()),
        0b10_0100
    );
    let flags = u32::from_le_bytes(tables.fadt()[112..116].try_into().unwrap());
    assert_eq!(flags & 1 << 10, 0, "no reset register without an i8042");
    assert!(!contains(tables.dsdt(), b"COM1") && !contains(tables.dsdt(), b"PS2_"));
    assert!(contains(tables.dsdt(), b"_S5_"));
}

#[test]
fn the_madt_lists_vcpus_and_ioapic() {
    let tables = Tables::of(&machine(3, &[]));
    let madt = tables.madt();
    assert_eq!(
        madt[36..44],
        [0, 0, 0xe0, 0xfe, 0, 0, 0, 0],
        "local APIC address; no PIC"
    );
    let mut expected = vec![1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
    for id in 0..3 {
        expected.extend_from_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    assert_eq!(madt[44..], expected);
}

#[test]
fn the_dsdt_gives_each_device_its_slot_and_interrupt_in_order() {
    let devices = devices(19);
    let tables = Tables::of(&machine(1, &devices));
    let dsdt = tables.dsdt();
    let mut rest = dsdt;
    for (index, device) in devices.iter().enumerate() {
        rest = after(rest, format!("V{index:03}").as_bytes());
        rest = after(rest, b"LNRO0005\0");
        // Memory32Fixed, read-write; extended interrupt: consumer, edge, active high, exclusive.
        let mut memory = vec![0x86, 9, 0, 1];
        memory.extend_from_slice(&(device.address as u32).to_le_bytes());
        memory.extend_from_slice(&4096_u32.to_le_bytes());
        let mut interrupt = vec![0x89, 6, 0, 0b0011, 1];
        interrupt.extend_from_slice(&device.gsi.to_le_bytes());
        rest = after(rest, &memory);
        assert!(rest.starts_with(&interrupt));
    }
    rest = after(rest, b"COM1");
    // IO, 16-bit decode, 0x3f8 to 0x3f8, alignment 1, 8 ports; interrupt 4.
    rest = after(
        rest,
        &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0],
    );
    rest = after(rest, b"PS2_");
    rest = after(rest, &[0x89, 6, 0, 0b0011, 1, 1, 0, 0, 0]);
    rest = after(rest, b"_S5_");
    assert_eq!(rest[..4], [0x12, 7, 4, 0x0a], "a package of four bytes");
    assert_eq!(rest[4], layout::SLEEP_TYPE_S5);
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn after<'a>(bytes: &'a [u8], needle: &[u8]) -> &'a [u8] {
    let position = bytes.windows(needle.len()).position(|window| window == needle);
    let position = position.unwrap_or_else(|| panic!("{needle:02x?} is missing"));
    &bytes[position + needle.len()..]
}
