//! A kernel file, looked at before anything is written: what it is, where its pieces go, how it starts.
//!
//! linux-loader gives the structures. Its loaders are not used: they write while they are still checking,
//! read headers of a file anew that may have changed since a check, and follow ELF notes without a bound.

use linux_loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::bzimage::{self, BzImageError};
use super::cpu::Protocol;
use super::elf::{self, ElfError};
use super::memory_map::MemoryMap;
use crate::image::{Image, ImageError};
use crate::looks::looks_like;

/// How much of the file is read to see what it is. Covers every header, and all of a tiny guest.
pub(super) const HEAD: usize = 4096;

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file itself.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An ELF file that cannot be booted.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A bzImage that cannot be booted.
    #[error(transparent)]
    BzImage(#[from] BzImageError),
    /// Something else.
    #[error("not a kernel: it looks like {0}; what boots is an x86-64 vmlinux (uncompressed ELF) or bzImage")]
    NotAKernel(&'static str),
    /// A command line longer than this kernel accepts.
    #[error("the command line is {length} bytes long with its NUL; this kernel takes {limit}")]
    CmdlineTooLong {
        /// Length of the command line with its NUL.
        length: usize,
        /// What the kernel's setup header allows, with the NUL.
        limit: usize,
    },
}

/// A part of the file and its place in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub address: u64,
    pub offset: u64,
    pub length: u64,
}

/// What to do with a kernel file that passed all checks.
#[derive(Debug)]
pub(super) struct Plan {
    pub pieces: Vec<Piece>,
    pub protocol: Protocol,
    pub entry: u64,
    /// End of the memory that the kernel occupies until it manages memory itself.
    pub end: u64,
    /// Setup header of a bzImage.
    pub header: Option<setup_header>,
    /// End of the addresses at which the kernel accepts an initrd.
    pub initrd_end: u64,
}

impl Plan {
    /// Looks at the file and decides, touching no guest memory.
    pub fn of(
        image: &Image<'_>,
        map: &MemoryMap,
        cmdline_length: usize,
        head: &[u8],
        size: u64,
    ) -> Result<Self, KernelError> {
        if head.starts_with(elf::MAGIC) {
            return elf::plan(image, map, head, size);
        }
        if let Some(header) = bzimage::setup_header_of(head) {
            let limit = usize::try_from(header.cmdline_size)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
            if cmdline_length > limit {
                let length = cmdline_length;
                return Err(KernelError::CmdlineTooLong { length, limit });
            }
            return Ok(bzimage::plan(&header, map, size)?);
        }
        Err(KernelError::NotAKernel(looks_like(head)))
    }

    /// Puts the pieces into guest memory. Memory that the file does not fill (`.bss`) is expected to be zero.
    pub fn place<M: GuestMemoryBackend>(
        &self,
        image: &Image<'_>,
        head: &[u8],
        memory: &M,
    ) -> Result<(), ImageError> {
        for piece in &self.pieces {
            let Piece {
                address,
                offset,
                length,
            } = *piece;
            match in_head(head, piece) {
                Some(bytes) => memory
                    .write_slice(bytes, GuestAddress(address))
                    .map_err(|source| ImageError::Memory { address, source })?,
                None => image.place(memory, address, offset, length)?,
            }
        }
        Ok(())
    }
}

/// The bytes of a piece that has been read already.
fn in_head<'a>(head: &'a [u8], piece: &Piece) -> Option<&'a [u8]> {
    let start = usize::try_from(piece.offset).ok()?;
    let end = start.checked_add(usize::try_from(piece.length).ok()?)?;
    head.get(start..end)
}
