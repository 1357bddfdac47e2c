//! The DSDT: devices that announce themselves nowhere else, and how to power off.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ONE, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::x86_64::layout;
use crate::x86_64::machine::{Machine, SerialPort, VirtioMmio};

const HEADER: u32 = 36;
/// From revision 2 on, integers in AML have 64 bits.
const REVISION: u8 = 2;

/// Builds the table.
pub(super) fn build(machine: &Machine<'_>) -> Sdt {
    let mut devices = Vec::with_capacity(128);
    for (index, device) in machine.virtio_mmio.iter().enumerate() {
        virtio_mmio(index, device, &mut devices);
    }
    if let Some(serial) = machine.serial {
        serial_port(serial, &mut devices);
    }
    if machine.i8042 {
        i8042(&mut devices);
    }
    let mut aml = Scope::raw(Path::new("\\_SB_"), devices);
    soft_off(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt
}

/// `LNRO0005` is the id under which Linux looks for virtio-mmio devices.
fn virtio_mmio(index: usize, device: &VirtioMmio, aml: &mut Vec<u8>) {
    // Machine::check has seen that addresses are below 4 GiB, and that there are no more than 19 devices.
    let memory = Memory32Fixed::new(true, device.address as u32, device.length as u32);
    Device::new(
        Path::new(&format!("V{:03}", index % 1000)),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&memory, &edge_interrupt(device.gsi)]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// A 16550A-compatible serial port.
fn serial_port(serial: SerialPort, aml: &mut Vec<u8>) {
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(serial.port, serial.port, 1, 8),
                    &edge_interrupt(serial.irq),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// A PC keyboard controller.
fn i8042(aml: &mut Vec<u8>) {
    let (data, command) = (layout::I8042_DATA_PORT, layout::I8042_COMMAND_PORT);
    Device::new(
        Path::new("PS2_"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0303")),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(data, data, 1, 1),
                    &IO::new(command, command, 1, 1),
                    &edge_interrupt(layout::I8042_IRQ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// Consumed by the device, edge-triggered, active high, exclusive.
fn edge_interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// `\_S5`: the sleep type that means "off", for the sleep control register.
fn soft_off(aml: &mut Vec<u8>) {
    let (kind, zero) = (layout::SLEEP_TYPE_S5, 0_u8);
    Name::new("_S5_".into(), &Package::new(vec![&kind, &zero, &zero, &zero])).to_aml_bytes(aml);
}
