//! The tables of fixed form: FADT (§5.2.9) and MADT (§5.2.12).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::x86_64::layout;
use crate::x86_64::machine::Machine;

/// IA-PC boot architecture flags (§5.2.9.3).
const LEGACY_DEVICES: u16 = 1 << 0;
const I8042: u16 = 1 << 1;
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// The FADT: what hardware there is and is not, how to reset, how to power off.
pub(super) fn fadt(machine: &Machine<'_>, dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // Set means "not as fixed hardware": there are no buttons.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    let mut boot_architecture = VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT;
    if machine.i8042 {
        boot_architecture |= I8042;
        fadt = fadt.flag(Flags::ResetRegSup);
        fadt.reset_reg = port(layout::I8042_COMMAND_PORT);
        fadt.reset_value = layout::I8042_RESET_COMMAND;
    }
    if machine.i8042 || machine.serial.is_some() {
        boot_architecture |= LEGACY_DEVICES;
    }
    fadt.iapc_boot_arch = boot_architecture.into();
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"KOYA    ").into();
    fadt.finalize()
}

/// A one-byte register in I/O space.
fn port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

/// The MADT: a local APIC for each vCPU, and the IOAPIC. Its flags are 0: there is no PIC to disable.
pub(super) fn madt(machine: &Machine<'_>) -> MADT {
    let local_apic = LocalInterruptController::Address(layout::LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local_apic);
    madt.add_structure(IoApic::new(machine.ioapic_id, layout::IOAPIC as u32, 0));
    for id in 0..machine.vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt
}
