//! Packets in the guest's memory: where the header is read from, and what system calls read and write behind it.

use std::collections::VecDeque;
use std::marker::PhantomData;

use libc::iovec;
use vm_memory::{GuestMemoryBackend, VolatileSlice};

use super::packet::{HEADER_LEN, Header};
use crate::virtio::queue::{Chain, MAX_DESCRIPTORS, QueueMemory, RamSlice};

/// Pieces that one system call takes: UIO_MAXIOV. A driver needs at most some twenty.
pub(super) const PIECES_MAX: usize = 1024;

/// Bytes copied at once, on the stack.
const CHUNK: usize = 4096;

/// The chain holds no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It does not even hold a header.
    Chain,
    /// It holds less data than its header says.
    Short(Header),
}

/// Hands every piece of a chain's buffers to `take`, which may have enough of them by returning `None`.
///
/// All buffers must be writable by the device if `writable`, and readable otherwise. `None` if they are not, or the
/// chain has no end.
pub(super) fn walk<'a>(
    chain: Chain<'a>,
    writable: bool,
    mut take: impl FnMut(RamSlice<'a>) -> Option<()>,
) -> Option<()> {
    let memory = chain.memory();
    let mut complete = false;
    for (count, descriptor) in chain.enumerate() {
        // Empty buffers make no pieces, but each costs time.
        if count >= MAX_DESCRIPTORS || descriptor.is_write_only() != writable {
            return None;
        }
        complete = !descriptor.has_next();
        let (address, len) = (descriptor.addr(), descriptor.len() as usize);
        if len == 0 {
            continue;
        }
        if let Some(slice) = memory.slice(address, len) {
            take(slice)?;
            continue;
        }
        // A buffer across the boundary of two regions.
        for slice in memory.ram().get_slices(address, len) {
            take(slice.ok()?)?;
        }
    }
    complete.then_some(())
}

pub(super) fn as_iovec(slice: &RamSlice<'_>) -> iovec {
    iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    }
}

/// Room for the pieces of a packet that the guest sends; kept from packet to packet so that none allocates.
pub(super) struct PacketRoom(Vec<iovec>);

// SAFETY: the pointers left in it are never dereferenced: `load` clears them first.
unsafe impl Send for PacketRoom {}

impl PacketRoom {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(64))
    }

    /// Takes the packet in `chain`. Its header is copied, where the guest cannot change it any more.
    pub(super) fn load<'a>(&'a mut self, chain: Chain<'a>) -> Result<(Header, Gather<'a>), Malformed> {
        let pieces = &mut self.0;
        pieces.clear();
        let mut bytes = [0; HEADER_LEN];
        let mut missing = &mut bytes[..];
        let mut len = 0usize;
        let walked = walk(chain, false, |slice| {
            let count = slice.copy_to(missing);
            missing = std::mem::take(&mut missing).get_mut(count..)?;
            let data = slice.offset(count).ok()?;
            if !data.is_empty() {
                if pieces.len() >= PIECES_MAX {
                    return None;
                }
                pieces.push(as_iovec(&data));
                len = len.saturating_add(data.len());
            }
            Some(())
        });
        if walked.is_none() || !missing.is_empty() {
            return Err(Malformed::Chain);
        }
        let header = Header::decode(&bytes);
        let wanted = header.len as usize;
        if wanted > len {
            return Err(Malformed::Short(header));
        }
        truncate(pieces, wanted);
        // SAFETY: the pieces lie in guest memory, which lives for `'a`, and whose other users access it as volatile.
        let data = unsafe { Gather::new(pieces, wanted) };
        Ok((header, data))
    }
}

/// Shortens a list to its first `len` bytes.
pub(super) fn truncate(pieces: &mut Vec<iovec>, len: usize) {
    let (mut left, mut count) = (len, 0usize);
    for piece in pieces.iter_mut() {
        if left == 0 {
            break;
        }
        piece.iov_len = piece.iov_len.min(left);
        left = left.saturating_sub(piece.iov_len);
        count = count.saturating_add(1);
    }
    pieces.truncate(count);
}

/// Data of a packet that the guest sends, in order.
pub(super) struct Gather<'a> {
    pieces: &'a [iovec],
    len: usize,
    memory: PhantomData<&'a QueueMemory>,
}

impl<'a> Gather<'a> {
    /// # Safety
    ///
    /// Every piece must be mapped memory that may be read during `'a`, and of which no mutable Rust reference exists.
    pub(super) unsafe fn new(pieces: &'a [iovec], len: usize) -> Self {
        Self {
            pieces,
            len,
            memory: PhantomData,
        }
    }

    /// For `sendmsg(2)`. At most 1024 pieces.
    pub(super) fn pieces(&self) -> &[iovec] {
        self.pieces
    }

    /// Bytes in all pieces.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends all bytes but the first `skip` to `bytes`.
    pub(super) fn append_to(&self, bytes: &mut VecDeque<u8>, mut skip: usize) {
        let mut chunk = [0; CHUNK];
        for piece in self.pieces {
            let mut at = skip.min(piece.iov_len);
            skip = skip.saturating_sub(at);
            // SAFETY: `new` promised that the piece may be read, and that others access it as we do.
            let slice = unsafe { VolatileSlice::<()>::new(piece.iov_base.cast(), piece.iov_len) };
            while let Ok(rest) = slice.offset(at)
                && !rest.is_empty()
            {
                let count = rest.copy_to(&mut chunk);
                bytes.extend(chunk.get(..count).unwrap_or_default());
                at = at.saturating_add(count);
            }
        }
    }
}

/// Memory of the guest that data is received into, in order.
pub(super) struct Scatter<'a> {
    pieces: &'a [iovec],
    len: usize,
    memory: PhantomData<&'a QueueMemory>,
}

impl<'a> Scatter<'a> {
    /// # Safety
    ///
    /// Every piece must be mapped memory that may be written during `'a`, and of which no Rust reference exists.
    pub(super) unsafe fn new(pieces: &'a [iovec], len: usize) -> Self {
        Self {
            pieces,
            len,
            memory: PhantomData,
        }
    }

    /// For `recvmsg(2)`. At most 1024 pieces.
    pub(super) fn pieces(&self) -> &[iovec] {
        self.pieces
    }

    /// Bytes in all pieces.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}
