//! The state in which vCPU 0 starts, as plain data, and the tables in memory that it points to.
//!
//! - 64-bit Linux protocol (`Documentation/arch/x86/boot.rst`, "64-bit boot protocol"): long mode with the kernel
//!   identity-mapped, flat segments with the selectors `__BOOT_CS` and `__BOOT_DS`, `rsi` at the zero page.
//! - PVH (Xen's `docs/misc/pvh.pandoc`): 32-bit protected mode without paging, flat segments, a 32-bit
//!   TSS, `ebx` at the start info.
//!
//! Other vCPUs wait for INIT and SIPI and need none of this.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::layout;
use super::tables::{TablesError, write};

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit Linux/x86 boot protocol.
    Linux64,
    /// The PVH entry point of an ELF kernel.
    Pvh,
}

/// General registers; those not listed are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Guest-physical address of the first instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Frame pointer.
    pub rbp: u64,
    /// PVH: address of the start info.
    pub rbx: u64,
    /// Linux: address of the zero page.
    pub rsi: u64,
    /// Flags: interrupts off.
    pub rflags: u64,
}

/// A segment register with its hidden part. Base 0, privilege level 0 and "present" go for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of its descriptor in the GDT.
    pub selector: u16,
    /// Last valid offset, in bytes.
    pub limit: u32,
    /// The four type bits of the descriptor.
    pub kind: u8,
    /// The S bit: code or data, and not a system segment.
    pub code_or_data: bool,
    /// The L bit: 64-bit code.
    pub long: bool,
    /// The D/B bit: 32-bit code, or a 32-bit stack pointer.
    pub default_32: bool,
    /// The G bit: the descriptor counts its limit in pages.
    pub granular: bool,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Its last valid offset, in bytes.
    pub limit: u16,
}

/// Everything to set in vCPU 0 before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStart {
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// General registers.
    pub registers: Registers,
    /// Code segment.
    pub cs: Segment,
    /// The segment for `ds`, `es`, `fs`, `gs` and `ss`.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table, already in guest memory.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table: none, so an exception at this point ends in a triple fault.
    pub idt: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3: the page tables, or 0.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable register.
    pub efer: u64,
}

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of the flags always reads as 1.
const RFLAGS_RESERVED: u64 = 1 << 1;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;
const GDT_ENTRIES: usize = 6;

impl Segment {
    const fn flat(selector: u16, kind: u8, long: bool) -> Self {
        Self {
            selector,
            limit: u32::MAX,
            kind,
            code_or_data: true,
            long,
            default_32: !long,
            granular: true,
        }
    }

    /// Code: execute, read, accessed.
    const fn code(long: bool) -> Self {
        Self::flat(CODE_SELECTOR, 0xb, long)
    }

    /// Data: read, write, accessed.
    const DATA: Self = Self::flat(DATA_SELECTOR, 0x3, false);

    /// A busy TSS, as hardware wants it in `tr`; nobody switches tasks with it.
    const TSS: Self = Self {
        selector: TSS_SELECTOR,
        limit: 0x67,
        kind: 0xb,
        code_or_data: false,
        long: false,
        default_32: false,
        granular: false,
    };

    /// The descriptor in the GDT (Intel SDM volume 3, §3.4.5).
    #[must_use]
    pub const fn descriptor(&self) -> u64 {
        const PRESENT: u64 = 1 << 47;
        let limit = if self.granular {
            self.limit >> 12
        } else {
            self.limit
        } as u64;
        (limit & 0xffff)
            | ((self.kind as u64 & 0xf) << 40)
            | ((self.code_or_data as u64) << 44)
            | PRESENT
            | ((limit >> 16 & 0xf) << 48)
            | ((self.long as u64) << 53)
            | ((self.default_32 as u64) << 54)
            | ((self.granular as u64) << 55)
    }
}

impl CpuStart {
    /// Writes the tables that `protocol` calls for and gives the state that uses them. `mapped` is the end
    /// of what the kernel needs identity-mapped.
    pub(super) fn prepare<M: GuestMemoryBackend>(
        memory: &M,
        protocol: Protocol,
        entry: u64,
        mapped: u64,
    ) -> Result<Self, TablesError> {
        let mut registers = Registers {
            rip: entry,
            rflags: RFLAGS_RESERVED,
            ..Registers::default()
        };
        let long = protocol == Protocol::Linux64;
        match protocol {
            Protocol::Linux64 => {
                registers.rsi = layout::ZERO_PAGE;
                registers.rsp = layout::STACK_TOP;
                registers.rbp = layout::STACK_TOP;
                write_page_tables(memory, mapped)?;
            }
            Protocol::Pvh => registers.rbx = layout::PVH_START_INFO,
        }
        let (cs, data, tr) = (Segment::code(long), Segment::DATA, Segment::TSS);
        // A TSS descriptor takes two entries in long mode; the second one holds the high half of base 0.
        let gdt: [u64; GDT_ENTRIES] = [0, 0, cs.descriptor(), data.descriptor(), tr.descriptor(), 0];
        write(
            memory,
            "GDT",
            layout::GDT,
            gdt.map(u64::to_le_bytes).as_flattened(),
        )?;
        Ok(Self {
            protocol,
            registers,
            cs,
            data,
            tr,
            gdt: DescriptorTable {
                base: layout::GDT,
                limit: 47,
            },
            idt: DescriptorTable::default(),
            cr0: CR0_PE | CR0_ET | if long { CR0_PG } else { 0 },
            cr3: if long { layout::PML4 } else { 0 },
            cr4: if long { CR4_PAE } else { 0 },
            efer: if long { EFER_LME | EFER_LMA } else { 0 },
        })
    }
}

const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;

/// Maps addresses to themselves from 0 on, in pages of 2 MiB: the first GiB, and more if the kernel goes beyond.
fn write_page_tables<M: GuestMemoryBackend>(memory: &M, mapped: u64) -> Result<(), TablesError> {
    let failed = |source| TablesError {
        table: "page tables",
        address: layout::PML4,
        source,
    };
    let directories = mapped.div_ceil(GIB).clamp(1, 4);
    let pdpt = layout::PML4.saturating_add(PAGE);
    memory
        .write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(layout::PML4))
        .map_err(failed)?;
    for gib in 0..directories {
        let directory = pdpt.saturating_add(gib.saturating_add(1).saturating_mul(PAGE));
        let entry = pdpt.saturating_add(gib.saturating_mul(8));
        memory
            .write_obj(directory | PRESENT_WRITABLE, GuestAddress(entry))
            .map_err(failed)?;
        let mut page = gib.saturating_mul(GIB) | LARGE_PAGE | PRESENT_WRITABLE;
        let pages: [[u8; 8]; ENTRIES as usize] = std::array::from_fn(|_| {
            let entry = page.to_le_bytes();
            page = page.saturating_add(GIB / ENTRIES);
            entry
        });
        write(memory, "page directory", directory, pages.as_flattened())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;
    use crate::test_support::memory_with;

    fn entry(memory: &impl GuestMemoryBackend, table: u64, index: u64) -> u64 {
        memory.read_obj(GuestAddress(table + index * 8)).unwrap()
    }

    /// Walks the tables as a CPU does.
    fn translate(memory: &impl GuestMemoryBackend, cr3: u64, address: u64) -> Option<u64> {
        let mut table = cr3;
        for shift in [39, 30, 21] {
            let entry = entry(memory, table, address >> shift & 0x1ff);
            if entry & 0b11 != 0b11 {
                return None;
            }
            if entry & LARGE_PAGE != 0 {
                return Some((entry & !0xfff) + (address & ((1 << shift) - 1)));
            }
            table = entry & !0xfff;
        }
        None
    }

    #[test]
    fn long_mode_maps_addresses_to_themselves() {
        for (mapped, end) in [
            (0, GIB),
            (GIB, GIB),
            (GIB + 1, 2 * GIB),
            (3 * GIB, 3 * GIB),
            (u64::MAX, 4 * GIB),
        ] {
            let memory = memory_with(2 << 20);
            let start = CpuStart::prepare(&memory, Protocol::Linux64, 0x10_0200, mapped).unwrap();
            for address in (0..end).step_by(0x1f_f123) {
                assert_eq!(translate(&memory, start.cr3, address), Some(address));
            }
            assert_eq!(translate(&memory, start.cr3, end - 1), Some(end - 1));
            assert_eq!(translate(&memory, start.cr3, end), None);
        }
    }

    #[test]
    fn the_linux_protocol_starts_in_long_mode_with_its_selectors() {
        let memory = memory_with(2 << 20);
        let start = CpuStart::prepare(&memory, Protocol::Linux64, 0x10_0200, 0).unwrap();
        assert_eq!((start.registers.rip, start.registers.rsi), (0x10_0200, 0x7000));
        assert_eq!(start.registers.rflags, 2);
        assert_eq!((start.cr0, start.cr4, start.efer), (0x8000_0011, 0x20, 0x500));
        assert_eq!((start.cs.selector, start.data.selector), (0x10, 0x18));
        assert_eq!(entry(&memory, start.gdt.base, 2), 0x00af_9b00_0000_ffff);
        assert_eq!(entry(&memory, start.gdt.base, 3), 0x00cf_9300_0000_ffff);
        assert_eq!(entry(&memory, start.gdt.base, 4), 0x0000_8b00_0000_0067);
        assert_eq!(start.gdt.limit, 47);
    }

    #[test]
    fn pvh_starts_in_protected_mode_without_paging() {
        let memory = memory_with(2 << 20);
        let start = CpuStart::prepare(&memory, Protocol::Pvh, 0x10_0000, 0).unwrap();
        assert_eq!(start.registers.rbx, layout::PVH_START_INFO);
        assert_eq!((start.cr0, start.cr3, start.cr4, start.efer), (0x11, 0, 0, 0));
        assert_eq!(entry(&memory, start.gdt.base, 2), 0x00cf_9b00_0000_ffff);
        assert_eq!(
            (start.cs.limit, start.data.limit, start.tr.limit),
            (u32::MAX, u32::MAX, 0x67)
        );
        assert_eq!(entry(&memory, layout::PML4, 0), 0, "no page tables are made");
    }
}
