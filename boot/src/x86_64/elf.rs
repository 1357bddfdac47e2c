//! Uncompressed ELF kernels: `vmlinux`, and whatever else is linked to run on a bare machine.
//!
//! Segments go to their physical addresses. A kernel with a PVH note is entered by PVH, any other one at
//! its entry address by the 64-bit Linux protocol.

use linux_loader::elf::{
    ELFCLASS32, ELFDATA2MSB, EM_386, EM_AARCH64, EM_ARM, EM_PPC64, EM_S390, EM_X86_64, ET_DYN, ET_EXEC,
    Elf64_Ehdr, Elf64_Phdr, PT_INTERP, PT_LOAD, PT_NOTE,
};
use vm_memory::ByteValued;

use super::cpu::Protocol;
use super::kernel::{KernelError, Piece, Plan};
use super::layout;
use super::memory_map::MemoryMap;
use super::pvh_note::{self, PvhNoteError};
use crate::image::{Image, ImageError};

pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// Most program headers: Linux has five; the table of this many is 7 KiB.
const HEADERS_MAX: u16 = 128;
const HEADER_SIZE: u64 = size_of::<Elf64_Phdr>() as u64;
const EM_RISCV: u16 = 243;

/// Why an ELF file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// 32-bit.
    #[error("a 32-bit ELF file; an x86-64 kernel is 64-bit")]
    Class32,
    /// Big-endian.
    #[error("a big-endian ELF file; an x86-64 kernel is little-endian")]
    BigEndian,
    /// Built for another processor.
    #[error("an ELF file for {name} (machine {machine}); this host runs x86-64 kernels (machine 62)")]
    Architecture {
        /// The ELF machine number.
        machine: u16,
        /// Its usual name.
        name: &'static str,
    },
    /// Object file, core dump, or something unknown.
    #[error("an ELF file of type {0}, not an executable (type 2): is it an object file or a module?")]
    Type(u16),
    /// A program for an operating system.
    #[error("a program that runs on Linux, not a kernel: it asks for a dynamic loader")]
    UserProgram,
    /// A table of program headers that cannot be right.
    #[error("an ELF file with {count} program headers of {size} bytes; a kernel has 1 to 128, of 56 bytes")]
    Headers {
        /// Number of headers.
        count: u16,
        /// Size of each.
        size: u16,
    },
    /// Nothing to load.
    #[error(
        "an ELF file with nothing to load: none of its program headers is a segment with memory (PT_LOAD)"
    )]
    NoSegments,
    /// A segment with more bytes in the file than in memory.
    #[error("ELF segment {index} has {file} bytes in the file and only {memory} in memory")]
    SegmentSize {
        /// Position of its program header, from 0.
        index: usize,
        /// Bytes in the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// A segment that does not fit guest memory.
    #[error(
        "ELF segment {index} at {start:#x} to {end:#x} lies outside guest memory below 3 GiB, which ends at {memory_end:#x}"
    )]
    OutsideMemory {
        /// Position of its program header, from 0.
        index: usize,
        /// First address.
        start: u64,
        /// End address.
        end: u64,
        /// Where memory ends.
        memory_end: u64,
    },
    /// A segment over the addresses of devices.
    #[error(
        "ELF segment {index} at {start:#x} to {end:#x} lies in the MMIO gap, 3 GiB to 4 GiB: link the kernel lower"
    )]
    InGap {
        /// Position of its program header, from 0.
        index: usize,
        /// First address.
        start: u64,
        /// End address.
        end: u64,
    },
    /// A segment over the tables of the boot.
    #[error(
        "ELF segment {index} at {start:#x} to {end:#x} covers boot tables; below 1 MiB only 0x10000 to 0x9fc00 is free"
    )]
    OverTables {
        /// Position of its program header, from 0.
        index: usize,
        /// First address.
        start: u64,
        /// End address.
        end: u64,
    },
    /// Two segments at one place.
    #[error("ELF segments overlap in memory: one ends at {end:#x}, the next begins at {start:#x}")]
    Overlap {
        /// End of the lower one.
        end: u64,
        /// Start of the upper one.
        start: u64,
    },
    /// An entry point where nothing is loaded.
    #[error("the entry point {0:#x} is in none of the ELF file's segments")]
    Entry(u64),
    /// A PVH note that makes no sense.
    #[error("cannot read the ELF notes")]
    Note(#[from] PvhNoteError),
}

/// A loadable segment's place in memory.
struct Extent {
    start: u64,
    end: u64,
}

/// Checks the whole file and plans where it goes.
pub(super) fn plan(image: &Image<'_>, map: &MemoryMap, head: &[u8], size: u64) -> Result<Plan, KernelError> {
    let header = file_header(head, size)?;
    let mut table = Vec::new();
    let headers = program_headers(image, &header, head, size, &mut table)?;

    let mut pieces = Vec::with_capacity(headers.len());
    let mut extents = Vec::with_capacity(headers.len());
    let mut pvh_entry = None;
    for (index, header) in headers.iter().enumerate() {
        match header.p_type {
            PT_INTERP => return Err(ElfError::UserProgram.into()),
            PT_LOAD if (header.p_filesz, header.p_memsz) != (0, 0) => {
                check_file_range(header.p_offset, header.p_filesz, size)?;
                extents.push(extent(index, header, map)?);
                if header.p_filesz != 0 {
                    pieces.push(Piece {
                        address: header.p_paddr,
                        offset: header.p_offset,
                        length: header.p_filesz,
                    });
                }
            }
            PT_NOTE if pvh_entry.is_none() => {
                check_file_range(header.p_offset, header.p_filesz, size)?;
                pvh_entry = pvh_note::entry(image, header, head)?;
            }
            _ => {}
        }
    }
    let end = check_overlaps(&mut extents)?;

    let (protocol, entry) = match pvh_entry {
        Some(entry) => (Protocol::Pvh, u64::from(entry)),
        None => (Protocol::Linux64, header.e_entry),
    };
    if !extents
        .iter()
        .any(|extent| (extent.start..extent.end).contains(&entry))
    {
        return Err(ElfError::Entry(entry).into());
    }
    Ok(Plan {
        pieces,
        protocol,
        entry,
        end,
        header: None,
        initrd_end: map.low_end,
    })
}

/// Reads and checks the file header.
fn file_header(head: &[u8], size: u64) -> Result<Elf64_Ehdr, KernelError> {
    // The class comes first: in a 32-bit file the fields behind it lie elsewhere.
    if head.get(4).is_some_and(|&class| class == ELFCLASS32) {
        return Err(ElfError::Class32.into());
    }
    if head.get(5).is_some_and(|&order| order == ELFDATA2MSB) {
        return Err(ElfError::BigEndian.into());
    }
    let header = Elf64_Ehdr::read_exact_from(head).map_err(|_| ImageError::Truncated {
        needed: size_of::<Elf64_Ehdr>() as u64,
        actual: size,
    })?;
    if header.e_machine != EM_X86_64 {
        let machine = header.e_machine;
        let name = match machine {
            EM_AARCH64 => "aarch64",
            EM_ARM => "32-bit Arm",
            EM_RISCV => "RISC-V",
            EM_S390 => "s390x",
            EM_PPC64 => "64-bit PowerPC",
            EM_386 => "32-bit x86",
            _ => "another processor",
        };
        return Err(ElfError::Architecture { machine, name }.into());
    }
    // Relocatable kernels are ET_DYN, and run where their program headers put them.
    if !matches!(header.e_type, ET_EXEC | ET_DYN) {
        return Err(ElfError::Type(header.e_type).into());
    }
    if header.e_phnum == 0 || header.e_phnum > HEADERS_MAX || u64::from(header.e_phentsize) != HEADER_SIZE {
        let (count, size) = (header.e_phnum, header.e_phentsize);
        return Err(ElfError::Headers { count, size }.into());
    }
    Ok(header)
}

/// Reads the program headers, from `head` where it holds them.
fn program_headers(
    image: &Image<'_>,
    header: &Elf64_Ehdr,
    head: &[u8],
    size: u64,
    table: &mut Vec<u8>,
) -> Result<Vec<Elf64_Phdr>, KernelError> {
    let length = u64::from(header.e_phnum).saturating_mul(HEADER_SIZE);
    check_file_range(header.e_phoff, length, size)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let start = usize::try_from(header.e_phoff).unwrap_or(usize::MAX);
    let bytes = match head.get(start..start.saturating_add(length)) {
        Some(bytes) => bytes,
        None => {
            table.resize(length, 0);
            image.read_at(table, header.e_phoff)?
        }
    };
    let (headers, _) = bytes.as_chunks::<{ HEADER_SIZE as usize }>();
    let read = headers
        .iter()
        .map(|bytes| Elf64_Phdr::read_exact_from(bytes.as_slice()));
    Ok(read
        .collect::<Result<_, _>>()
        .map_err(|source| ImageError::Read {
            offset: header.e_phoff,
            source,
        })?)
}

/// The file must have what a header points to.
fn check_file_range(offset: u64, length: u64, size: u64) -> Result<(), ImageError> {
    let needed = offset.saturating_add(length);
    if needed > size {
        return Err(ImageError::Truncated { needed, actual: size });
    }
    Ok(())
}

/// Checks one loadable segment against memory and the tables in it.
fn extent(index: usize, header: &Elf64_Phdr, map: &MemoryMap) -> Result<Extent, ElfError> {
    let (file, memory) = (header.p_filesz, header.p_memsz);
    if file > memory {
        return Err(ElfError::SegmentSize { index, file, memory });
    }
    let start = header.p_paddr;
    let end = start.saturating_add(memory);
    if start < layout::MMIO_GAP_END && end > layout::MMIO_GAP_START {
        return Err(ElfError::InGap { index, start, end });
    }
    let memory_end = map.low_end;
    if end > memory_end {
        return Err(ElfError::OutsideMemory {
            index,
            start,
            end,
            memory_end,
        });
    }
    let low = start >= layout::START_TABLES_END && end <= layout::LOW_RAM_END;
    if start < layout::HIMEM_START && !low {
        return Err(ElfError::OverTables { index, start, end });
    }
    Ok(Extent { start, end })
}

/// Sorts the segments, refuses those that overlap, and returns where the last one ends.
fn check_overlaps(extents: &mut [Extent]) -> Result<u64, ElfError> {
    extents.sort_unstable_by_key(|extent| extent.start);
    let mut end = None;
    for extent in &*extents {
        if let Some(end) = end.filter(|&end| end > extent.start) {
            let start = extent.start;
            return Err(ElfError::Overlap { end, start });
        }
        end = Some(extent.end);
    }
    end.ok_or(ElfError::NoSegments)
}
