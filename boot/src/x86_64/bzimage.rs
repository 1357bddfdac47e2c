//! bzImage kernels, as distributions ship them (`Documentation/arch/x86/boot.rst`).
//!
//! The protected-mode part goes to 1 MiB and is entered in long mode, 0x200 bytes behind its start. It then
//! unpacks itself to its preferred address, within the `init_size` bytes it declares.

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

use super::cpu::Protocol;
use super::kernel::{Piece, Plan};
use super::layout;
use super::memory_map::MemoryMap;

/// Offset of the setup header in the file.
const HEADER: usize = 0x1f1;
/// Offset of its magic number.
const HEADER_MAGIC: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
const SECTOR: u64 = 512;
/// Number of setup sectors when the header says 0.
const SETUP_SECTORS_DEFAULT: u64 = 4;
/// Distance of the 64-bit entry point from the load address.
const ENTRY_64: u64 = 0x200;
/// The protocol that brought `xloadflags` and with it the 64-bit entry point: Linux 3.8.
const VERSION_MIN: u16 = 0x020c;

/// Why a bzImage cannot be booted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BzImageError {
    /// Too old.
    #[error(
        "a kernel with boot protocol {major}.{minor:02}; 2.12 or later is needed (Linux 3.8)",
        major = .0 >> 8, minor = .0 & 0xff
    )]
    Version(u16),
    /// A zImage.
    #[error("a zImage, made to be loaded below 1 MiB; a bzImage is needed")]
    ZImage,
    /// No entry point for long mode.
    #[error("a 32-bit kernel: it has no 64-bit entry point; an x86-64 bzImage is needed")]
    Not64Bit,
    /// Less in the file than its header says.
    #[error("the bzImage is cut short: its header calls for {needed} bytes and the file has {actual}")]
    Truncated {
        /// Length that the header calls for.
        needed: u64,
        /// Length of the file.
        actual: u64,
    },
    /// An alignment that is none.
    #[error("a bzImage whose header asks for an alignment of {0:#x}, which is not a power of two")]
    Alignment(u32),
    /// Too little memory to unpack it.
    #[error(
        "the kernel unpacks itself up to {needed:#x} ({mib} MiB), and guest memory below 3 GiB ends at {memory_end:#x}",
        mib = needed.div_ceil(1 << 20)
    )]
    Memory {
        /// End of the memory that the kernel needs.
        needed: u64,
        /// Where memory ends.
        memory_end: u64,
    },
}

/// The setup header in the first bytes of a file, if they are a bzImage's. What lies behind the
/// header's own end is 0.
pub(super) fn setup_header_of(head: &[u8]) -> Option<setup_header> {
    if !head.get(HEADER_MAGIC..)?.starts_with(MAGIC) {
        return None;
    }
    // The byte before the magic number is the distance of a jump over the header: it tells where it ends.
    let jump = usize::from(*head.get(HEADER_MAGIC.saturating_sub(1))?);
    let end = HEADER_MAGIC.saturating_add(jump);
    let mut bytes = [0; size_of::<setup_header>()];
    let header = head.get(HEADER..end.min(head.len()))?;
    for (to, from) in bytes.iter_mut().zip(header) {
        *to = *from;
    }
    setup_header::from_slice(&bytes).copied()
}

/// Checks the header against the file and memory, and plans where the kernel goes.
pub(super) fn plan(header: &setup_header, map: &MemoryMap, size: u64) -> Result<Plan, BzImageError> {
    if header.version < VERSION_MIN {
        return Err(BzImageError::Version(header.version));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BzImageError::ZImage);
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BzImageError::Not64Bit);
    }
    let setup = setup_length(header);
    let needed = setup.saturating_add(body_length(header));
    let length = size.checked_sub(setup).filter(|_| needed <= size);
    let length = length.ok_or(BzImageError::Truncated { needed, actual: size })?;

    let end = working_end(header)?.max(layout::HIMEM_START.saturating_add(length));
    if end > map.low_end {
        let memory_end = map.low_end;
        return Err(BzImageError::Memory {
            needed: end,
            memory_end,
        });
    }
    Ok(Plan {
        pieces: vec![Piece {
            address: layout::HIMEM_START,
            offset: setup,
            length,
        }],
        protocol: Protocol::Linux64,
        entry: layout::HIMEM_START.saturating_add(ENTRY_64),
        end,
        header: Some(*header),
        initrd_end: map
            .low_end
            .min(u64::from(header.initrd_addr_max).saturating_add(1)),
    })
}

/// Length of the boot sector and the real-mode part.
fn setup_length(header: &setup_header) -> u64 {
    let sectors = match header.setup_sects {
        0 => SETUP_SECTORS_DEFAULT,
        sectors => u64::from(sectors),
    };
    sectors.saturating_add(1).saturating_mul(SECTOR)
}

/// The least length of the protected-mode part: up to its entry point, and to the end of the compressed kernel.
/// (`syssize` says it too, but counts in paragraphs and with padding that not every file has.)
fn body_length(header: &setup_header) -> u64 {
    let payload = u64::from(header.payload_offset).saturating_add(u64::from(header.payload_length));
    payload.max(ENTRY_64.saturating_add(1))
}

/// End of the memory in which the kernel unpacks itself and runs, before it knows the memory map.
fn working_end(header: &setup_header) -> Result<u64, BzImageError> {
    let preferred = header.pref_address;
    let start = if header.relocatable_kernel == 0 {
        preferred
    } else {
        // It aligns the address it is loaded at, but never goes below the preferred one.
        let alignment = u64::from(header.kernel_alignment);
        if !alignment.is_power_of_two() {
            return Err(BzImageError::Alignment(header.kernel_alignment));
        }
        let start = preferred.max(layout::HIMEM_START);
        start.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
    };
    Ok(start.saturating_add(u64::from(header.init_size)))
}
