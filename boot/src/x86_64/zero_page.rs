//! The zero page of the 64-bit Linux protocol: setup header, e820 map, and where everything is
//! (`Documentation/arch/x86/zero-page.rst`).

use linux_loader::bootparam::{LOADED_HIGH, boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, GuestMemoryBackend};

use super::initrd::Initrd;
use super::layout;
use super::memory_map::MemoryMap;
use super::tables::{TablesError, write};

/// "A loader without an id of its own."
const LOADER_OTHER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The protocol that an ELF kernel is told, which brings no header of its own.
const VERSION: u16 = 0x020f;
/// What x86-64 kernels are aligned to.
const ALIGNMENT: u32 = 2 << 20;

/// Writes the zero page. `header` is the setup header of a bzImage.
pub(super) fn write_zero_page<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    header: Option<setup_header>,
    initrd: Option<Initrd>,
) -> Result<(), TablesError> {
    let mut hdr = header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: MAGIC,
        version: VERSION,
        loadflags: LOADED_HIGH,
        kernel_alignment: ALIGNMENT,
        cmdline_size: (layout::CMDLINE_SIZE - 1) as u32,
        ..setup_header::default()
    });
    hdr.type_of_loader = LOADER_OTHER;
    hdr.ext_loader_type = 0;
    hdr.ext_loader_ver = 0;
    hdr.code32_start = layout::HIMEM_START as u32;
    hdr.cmd_line_ptr = layout::CMDLINE as u32;
    hdr.setup_data = 0;
    let (mut image, mut size) = (0, 0);
    if let Some(initrd) = initrd {
        (image, size) = (initrd.address, initrd.length);
    }
    // The initrd lies below 3 GiB, so the high halves in ext_ramdisk_* stay 0.
    hdr.ramdisk_image = image as u32;
    hdr.ramdisk_size = size as u32;

    let mut params = boot_params {
        hdr,
        acpi_rsdp_addr: layout::RSDP,
        e820_entries: u8::try_from(map.ranges.len()).unwrap_or(u8::MAX),
        ..boot_params::default()
    };
    for (entry, range) in params.e820_table.iter_mut().zip(&map.ranges) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.length,
            r#type: range.kind as u32,
        };
    }
    write(memory, "zero page", layout::ZERO_PAGE, params.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::memory_with;
    use vm_memory::{Bytes, GuestAddress};

    fn read<T: ByteValued>(memory: &impl GuestMemoryBackend, offset: u64) -> T {
        memory
            .read_obj(GuestAddress(layout::ZERO_PAGE.wrapping_add(offset)))
            .unwrap()
    }

    #[test]
    fn an_elf_kernel_gets_a_header_made_for_it() {
        let memory = memory_with(5 << 30);
        let map = MemoryMap::of(&memory).unwrap();
        let (address, length) = (0x3f0_0000, 12345);
        write_zero_page(&memory, &map, None, Some(Initrd { address, length })).unwrap();
        assert_eq!(read::<u64>(&memory, 0x70), layout::RSDP);
        assert_eq!(read::<u16>(&memory, 0x1fe), 0xaa55);
        assert_eq!(read::<[u8; 4]>(&memory, 0x202), *b"HdrS");
        assert_eq!(read::<u8>(&memory, 0x210), 0xff);
        assert_eq!(read::<u32>(&memory, 0x218), 0x3f0_0000);
        assert_eq!(read::<u32>(&memory, 0x21c), 12345);
        assert_eq!(read::<u32>(&memory, 0x228), layout::CMDLINE as u32);
        assert_eq!(
            read::<u8>(&memory, 0x1ef),
            0,
            "a sentinel makes Linux wipe the page"
        );
        // Four lines of e820, 20 bytes each.
        assert_eq!(read::<u8>(&memory, 0x1e8), 4);
        for (index, start, end, kind) in [
            (0, 0, 0x9_fc00, 1),
            (1, 0xf_0000, 0x10_0000, 2),
            (2, 0x10_0000, 0xc000_0000_u64, 1),
            (3, 0x1_0000_0000, 0x1_8000_0000, 1),
        ] {
            let line = 0x2d0 + index * 20;
            assert_eq!(read::<u64>(&memory, line), start);
            assert_eq!(read::<u64>(&memory, line + 8), end - start);
            assert_eq!(read::<u32>(&memory, line + 16), kind);
        }
    }

    #[test]
    fn a_bzimages_own_header_is_kept() {
        let memory = memory_with(4 << 20);
        let map = MemoryMap::of(&memory).unwrap();
        let header = setup_header {
            header: MAGIC,
            version: 0x020d,
            cmdline_size: 255,
            init_size: 0x12_3456,
            ramdisk_image: 1,
            ramdisk_size: 2,
            setup_data: 3,
            ..setup_header::default()
        };
        write_zero_page(&memory, &map, Some(header), None).unwrap();
        assert_eq!(read::<u16>(&memory, 0x206), 0x020d);
        assert_eq!(read::<u32>(&memory, 0x238), 255);
        assert_eq!(read::<u32>(&memory, 0x260), 0x12_3456);
        assert_eq!(read::<u8>(&memory, 0x210), 0xff);
        // Fields that only a loader may fill are not taken from the file.
        assert_eq!((read::<u32>(&memory, 0x218), read::<u32>(&memory, 0x21c)), (0, 0));
        assert_eq!(read::<u64>(&memory, 0x250), 0);
    }
}
