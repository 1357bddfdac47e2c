//! The guest-physical address map of an x86-64 microVM.
//!
//! ```text
//!         0x0000 ┬ left to the guest (real-mode vectors, BIOS data area)
//!         0x6000 │ start page: GDT, PVH start info, its lists, command line
//!         0x7000 │ zero page (64-bit Linux protocol only)
//!         0x8000 │ a small stack, growing down from 0x8ff0
//!         0x9000 │ page tables: PML4, PDPT and up to four page directories (64-bit protocol only)
//!      0x1_0000  ┼ free RAM
//!      0x9_fc00  ┼ not RAM for the guest (a PC has its extended BIOS data and video memory here)
//!      0xf_0000  │ firmware tables: RSDP first, then ACPI, then the MP table
//!     0x10_0000  ┼ RAM: the kernel, and the initrd as high as it may go
//!   0xc000_0000  ┼ the gap: boot timer, virtio-mmio slots, IOAPIC, local APIC, pages for KVM
//! 0x1_0000_0000  ┼ RAM: whatever did not fit below the gap
//! ```
//!
//! The tables of one boot sit on few pages on purpose: every page that is touched before the guest runs
//! costs a page fault at start-up. All addresses are bytes, all lengths are in bytes.

/// The first GSI that virtio-mmio devices use; 0 to 4 belong to what a PC has there (timer, keyboard,
/// cascade, serial ports).
pub const VIRTIO_MMIO_FIRST_GSI: u32 = 5;
/// How many virtio-mmio devices the interrupt pins allow: one edge-triggered pin each, 5 to 23.
pub const VIRTIO_MMIO_SLOTS: usize = 19;
/// Pins (GSIs) of the one IOAPIC; its GSI base is 0.
pub const IOAPIC_PINS: u8 = 24;

/// Page on which the tables of a boot lie, from the GDT to the command line.
pub const START_PAGE: u64 = 0x6000;
/// Global descriptor table, six entries of eight bytes.
pub const GDT: u64 = START_PAGE;
/// `hvm_start_info` of the PVH protocol.
pub const PVH_START_INFO: u64 = START_PAGE + 0x80;
/// The PVH module list: one entry, for the initrd.
pub const PVH_MODULES: u64 = START_PAGE + 0xc0;
/// The PVH memory map, up to the command line: 56 entries.
pub const PVH_MEMORY_MAP: u64 = START_PAGE + 0x100;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = START_PAGE + 0x800;
/// Bytes of a command line at most, its NUL included: Linux's `COMMAND_LINE_SIZE` on x86.
pub const CMDLINE_SIZE: usize = 2048;

/// The zero page (`struct boot_params`) of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial stack pointer for the 64-bit protocol. Linux brings its own stack; a tiny guest may use this one.
pub const STACK_TOP: u64 = 0x8ff0;
/// Top-level page table. The next page is the PDPT, the pages after it are the page directories.
pub const PML4: u64 = 0x9000;
/// First address above the tables of a boot.
pub const START_TABLES_END: u64 = 0x1_0000;

/// End of the conventional memory that the guest may use below 1 MiB.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Firmware tables; the RSDP is at the very start. PC kernels search this window for RSDP and MP table.
pub const FIRMWARE: u64 = 0xf_0000;
/// End of the window for firmware tables.
pub const FIRMWARE_END: u64 = 0x10_0000;
/// ACPI root pointer.
pub const RSDP: u64 = FIRMWARE;
/// Start of high memory, where kernels are loaded.
pub const HIMEM_START: u64 = 0x10_0000;

/// Start of the hole in guest memory below 4 GiB.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// End of the hole: memory that did not fit below goes on here.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;
/// One-page slot for the boot timer, at the place where Firecracker's guests write to.
pub const BOOT_TIMER: u64 = MMIO_GAP_START;
/// First virtio-mmio slot.
pub const VIRTIO_MMIO_START: u64 = MMIO_GAP_START + 0x1000;
/// Length of one virtio-mmio slot.
pub const VIRTIO_MMIO_SLOT_LENGTH: u64 = 0x1000;
/// Registers of the IOAPIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Length of the IOAPIC's window.
pub const IOAPIC_LENGTH: u64 = 0x1000;
/// Registers of each vCPU's local APIC.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Page for `KVM_SET_IDENTITY_MAP_ADDR`, directly below the TSS pages.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for `KVM_SET_TSS_ADDR`.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// I/O port of COM1; it has eight registers.
pub const COM1_PORT: u16 = 0x3f8;
/// Interrupt of COM1.
pub const COM1_IRQ: u32 = 4;
/// I/O port of the i8042's data register.
pub const I8042_DATA_PORT: u16 = 0x60;
/// I/O port of the i8042's command register.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// Keyboard interrupt of the i8042.
pub const I8042_IRQ: u32 = 1;
/// i8042 command that pulses the reset line; ACPI's reset register is this write.
pub const I8042_RESET_COMMAND: u8 = 0xfe;

/// I/O port of ACPI's one-byte sleep control register (ACPI 6.5 §4.8.3.7). `SLP_EN` with the type of `\_S5` switches
/// the machine off.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// I/O port of ACPI's one-byte sleep status register; reads as 0, writes are ignored.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// The sleep type that the DSDT's `\_S5` object gives to "soft off".
pub const SLEEP_TYPE_S5: u8 = 5;

/// The place of the `index`-th virtio-mmio device: address of its slot and its GSI. `None` from
/// [`VIRTIO_MMIO_SLOTS`] on.
#[must_use]
pub fn virtio_mmio_slot(index: usize) -> Option<(u64, u32)> {
    if index >= VIRTIO_MMIO_SLOTS {
        return None;
    }
    let offset = u64::try_from(index).ok()?.checked_mul(VIRTIO_MMIO_SLOT_LENGTH)?;
    let gsi = VIRTIO_MMIO_FIRST_GSI.checked_add(u32::try_from(index).ok()?)?;
    Some((VIRTIO_MMIO_START.checked_add(offset)?, gsi))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_slots_fit_the_pins_and_stay_below_the_ioapic() {
        assert_eq!(virtio_mmio_slot(0), Some((0xc000_1000, 5)));
        assert_eq!(virtio_mmio_slot(18), Some((0xc001_3000, 23)));
        assert_eq!(virtio_mmio_slot(19), None);
        assert_eq!(virtio_mmio_slot(usize::MAX), None);
    }
}
