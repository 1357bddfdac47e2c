//! The start info of the PVH protocol: `struct hvm_start_info` version 1 with memory map and module list
//! (`xen/include/public/arch-x86/hvm/start_info.h`).

use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, GuestMemoryBackend};

use super::initrd::Initrd;
use super::layout;
use super::memory_map::MemoryMap;
use super::tables::{TablesError, write};

/// Writes start info, memory map and, for an initrd, the module list.
pub(super) fn write_start_info<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    initrd: Option<Initrd>,
) -> Result<(), TablesError> {
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::RSDP,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(map.ranges.len()).unwrap_or(u32::MAX),
        ..hvm_start_info::default()
    };
    if let Some(initrd) = initrd {
        info.nr_modules = 1;
        info.modlist_paddr = layout::PVH_MODULES;
        let module = hvm_modlist_entry {
            paddr: initrd.address,
            size: initrd.length,
            ..hvm_modlist_entry::default()
        };
        write(memory, "PVH module list", layout::PVH_MODULES, module.as_slice())?;
    }
    let mut lines = Vec::with_capacity(
        map.ranges
            .len()
            .saturating_mul(size_of::<hvm_memmap_table_entry>()),
    );
    for range in &map.ranges {
        let line = hvm_memmap_table_entry {
            addr: range.start,
            size: range.length,
            type_: range.kind as u32,
            reserved: 0,
        };
        lines.extend_from_slice(line.as_slice());
    }
    write(memory, "PVH memory map", layout::PVH_MEMORY_MAP, &lines)?;
    write(memory, "PVH start info", layout::PVH_START_INFO, info.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::memory_with;
    use vm_memory::{Bytes, GuestAddress};

    fn start_info(initrd: Option<Initrd>) -> (impl GuestMemoryBackend, hvm_start_info) {
        let memory = memory_with(4 << 30);
        write_start_info(&memory, &MemoryMap::of(&memory).unwrap(), initrd).unwrap();
        let info = memory.read_obj(GuestAddress(layout::PVH_START_INFO)).unwrap();
        (memory, info)
    }

    #[test]
    fn memory_and_tables_are_announced() {
        let (memory, info) = start_info(None);
        assert_eq!((info.magic, info.version, info.flags), (0x336e_c578, 1, 0));
        assert_eq!((info.nr_modules, info.modlist_paddr), (0, 0));
        assert_eq!(
            (info.cmdline_paddr, info.rsdp_paddr),
            (layout::CMDLINE, layout::RSDP)
        );
        assert_eq!(info.memmap_entries, 4);
        let mut lines = [[0_u64; 3]; 4];
        for (address, line) in (info.memmap_paddr..).step_by(24).zip(&mut lines) {
            *line = memory.read_obj(GuestAddress(address)).unwrap();
        }
        assert_eq!(
            lines,
            [
                [0, 0x9_fc00, 1],
                [0xf_0000, 0x1_0000, 2],
                [0x10_0000, 0xbff0_0000, 1],
                [0x1_0000_0000, 0x4000_0000, 1],
            ]
        );
    }

    #[test]
    fn the_initrd_is_a_module() {
        let (address, length) = (0xbfff_0000, 4097);
        let (memory, info) = start_info(Some(Initrd { address, length }));
        assert_eq!(info.nr_modules, 1);
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!(
            (module.paddr, module.size, module.cmdline_paddr),
            (address, length, 0)
        );
    }
}
