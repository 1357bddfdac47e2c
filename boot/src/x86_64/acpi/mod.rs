//! ACPI 6.5 tables: RSDP, XSDT, FADT, MADT and DSDT, for a hardware-reduced machine.
//!
//! "Hardware-reduced" (§4.1) means that there is no PM timer, no PIC and no system control interrupt to
//! emulate, and Linux then looks for none of them, nor for a PIT.

mod dsdt;
mod fixed;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::firmware::Firmware;
use super::machine::Machine;

const OEM: [u8; 6] = *b"KOYA  ";
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;

/// Adds all tables. The RSDP gets the room that was kept for it at the front.
pub(super) fn add_tables(firmware: &mut Firmware, machine: &Machine<'_>) {
    let mut bytes = Vec::with_capacity(1024);
    let mut add = |table: &dyn Aml| {
        bytes.clear();
        table.to_aml_bytes(&mut bytes);
        firmware.add(&bytes)
    };
    let dsdt = add(&dsdt::build(machine));
    let fadt = add(&fixed::fadt(machine, dsdt));
    let madt = add(&fixed::madt(machine));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = add(&xsdt);

    bytes.clear();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut bytes);
    firmware.put_first(&bytes);
}

#[cfg(test)]
mod tests;
