//! A frame that the guest sends: pieces of its memory, gathered from a chain without copying what they hold.

use std::marker::PhantomData;

use libc::iovec;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::backend::Gather;
use super::packet::{PREFIX_LEN, PacketError, Prefix, check_length};
use crate::virtio::queue::{Chain, MAX_DESCRIPTORS, QueueMemory};

/// Pieces that one `readv(2)` or `writev(2)` takes: UIO_MAXIOV. A driver needs some twenty.
pub(super) const PIECES_MAX: usize = 1024;

/// A chain that cannot hold a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain has no end inside its table, or a table of descriptors lies outside guest memory.
    #[error("the chain of descriptors has no end")]
    Endless,
    /// A buffer of the wrong direction for its queue.
    #[error("a buffer that the device may only {0}")]
    Direction(&'static str),
    /// A buffer outside guest memory.
    #[error("a buffer outside guest memory")]
    Outside,
    /// More pieces than one system call takes.
    #[error("more than {PIECES_MAX} pieces")]
    TooManyPieces,
    /// More descriptors than any driver needs.
    #[error("more than {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
}

/// Hands every piece of a chain's buffers to `take`, with its address in the guest.
///
/// All buffers must be writable by the device if `writable`, and readable otherwise.
pub(super) fn walk(
    chain: Chain<'_>,
    writable: bool,
    mut take: impl FnMut(GuestAddress, iovec) -> Result<(), ChainError>,
) -> Result<(), ChainError> {
    let memory = chain.memory();
    let mut complete = false;
    for (count, descriptor) in chain.enumerate() {
        // Empty buffers make no pieces, but each costs time.
        if count >= MAX_DESCRIPTORS {
            return Err(ChainError::TooManyDescriptors);
        }
        if descriptor.is_write_only() != writable {
            return Err(ChainError::Direction(if writable { "read" } else { "write" }));
        }
        complete = !descriptor.has_next();
        let (address, len) = (descriptor.addr(), descriptor.len() as usize);
        if len == 0 {
            continue;
        }
        if let Some(slice) = memory.slice(address, len) {
            take(address, as_iovec(&slice))?;
            continue;
        }
        // A buffer across the boundary of two regions.
        let mut address = address;
        for slice in memory.ram().get_slices(address, len) {
            let slice = slice.map_err(|_| ChainError::Outside)?;
            take(address, as_iovec(&slice))?;
            address = GuestAddress(address.0.wrapping_add(slice.len() as u64));
        }
    }
    if complete {
        Ok(())
    } else {
        Err(ChainError::Endless)
    }
}

fn as_iovec<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) -> iovec {
    iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    }
}

/// Room for the pieces of a frame that is being sent; kept from frame to frame so that none allocates.
pub(super) struct OutgoingRoom(Vec<iovec>);

// SAFETY: the pointers left in it are never dereferenced: `load` clears them first.
unsafe impl Send for OutgoingRoom {}

impl OutgoingRoom {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(64))
    }

    /// Takes the pieces of `chain`.
    pub(super) fn load<'a>(&'a mut self, chain: Chain<'a>) -> Result<OutgoingFrame<'a>, ChainError> {
        let pieces = &mut self.0;
        pieces.clear();
        pieces.push(iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        });
        let mut len = 0u64;
        walk(chain, false, |_, piece| {
            if pieces.len() >= PIECES_MAX {
                return Err(ChainError::TooManyPieces);
            }
            pieces.push(piece);
            len = len.saturating_add(piece.iov_len as u64);
            Ok(())
        })?;
        Ok(OutgoingFrame {
            pieces,
            len,
            memory: PhantomData,
        })
    }
}

/// A frame in the guest's memory. The first of its pieces is free for the [`Prefix`], which the host sends from its
/// own copy.
pub(super) struct OutgoingFrame<'a> {
    pieces: &'a mut [iovec],
    len: u64,
    memory: PhantomData<&'a QueueMemory>,
}

impl OutgoingFrame<'_> {
    /// Length of header and frame in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Copies the first bytes out of guest memory, where they may change, and leaves the rest in the list.
    pub(super) fn take_prefix(&mut self) -> Result<Prefix, PacketError> {
        check_length(self.len)?;
        let mut prefix = [0; PREFIX_LEN];
        let mut missing = &mut prefix[..];
        for piece in self.pieces.iter_mut().skip(1) {
            let count = piece.iov_len.min(missing.len());
            let (part, rest) = std::mem::take(&mut missing).split_at_mut(count);
            // SAFETY: the piece lies in guest memory, which lives as long as `self`, and whose other users access
            // it as we do.
            let slice = unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) };
            slice.copy_to(part);
            piece.iov_base = piece.iov_base.wrapping_byte_add(count);
            piece.iov_len = piece.iov_len.saturating_sub(count);
            missing = rest;
            if missing.is_empty() {
                break;
            }
        }
        Ok(Prefix(prefix))
    }

    /// Calls `send` with the frame, whose first bytes are `prefix`.
    pub(super) fn send<R>(self, mut prefix: Prefix, send: impl FnOnce(&Gather<'_>) -> R) -> R {
        if let Some(first) = self.pieces.first_mut() {
            *first = iovec {
                iov_base: prefix.0.as_mut_ptr().cast(),
                iov_len: PREFIX_LEN,
            };
        }
        // SAFETY: the first piece is a local variable that outlives the call and is not used otherwise meanwhile;
        // all others lie in guest memory, which lives as long as `self`, and whose other users access it by
        // volatile accesses.
        send(&unsafe { Gather::new(self.pieces) })
    }
}
