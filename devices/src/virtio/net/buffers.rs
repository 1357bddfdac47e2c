//! Buffers that the driver made available for receiving, held as a list that one `readv(2)` fills.
//!
//! ```text
//! held chains   [ A: 2 pieces ][ B: 1 piece ][ C: refused ][ D: 1 piece ]     in the order of the ring
//! pieces        [ a1 ][  a2   ][     b      ]              [     d      ]  [ spill, in the host ]
//! a frame       ■■■■■■■■■■■■■■■■■■■■
//! ```
//!
//! Chains are taken from the ring, and given back, in its order. So at any time the held ones are simply the last
//! that were taken, and a snapshot puts them back by counting.

use std::collections::VecDeque;
use std::sync::Arc;

use libc::iovec;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};

use super::backend::Scatter;
use super::frame::{ChainError, PIECES_MAX, walk};
use super::packet::{FRAME_MAX, HEADER_LEN, NUM_BUFFERS_OFFSET};
use crate::memory::GuestRam;
use crate::virtio::queue::{ActiveQueue, Chain, QueueFault};

/// A chain between being taken from the ring and being given back.
struct Held {
    head: u16,
    pieces: u16,
    /// Bytes; zero for a chain that is of no use and goes back as it is.
    len: u64,
}

/// How [`ReceiveBuffers::gather`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// As many bytes as asked for.
    Enough,
    /// The ring is empty; the driver will ring its doorbell when it adds buffers.
    Starved,
    /// No more fit into the list although the ring may have some.
    Full,
}

pub(super) struct ReceiveBuffers {
    memory: GuestRam,
    /// Pieces of all held chains; those before `first` are given back already.
    pieces: Vec<iovec>,
    /// Where each of `pieces` lies in the guest.
    addresses: Vec<GuestAddress>,
    first: usize,
    held: VecDeque<Held>,
    /// Bytes in all held chains.
    capacity: u64,
    /// Whether the driver negotiated merging, so that a frame may take several chains.
    merge: bool,
    /// Whether the driver has been asked to ring.
    doorbell: bool,
    /// Whether somebody tracks which pages are written.
    tracked: bool,
    /// Most chains that the driver ever had in our hands.
    peak: u16,
    /// Takes what a frame has beyond the held buffers.
    spill: Vec<u8>,
    used: Vec<(u16, u32)>,
    /// Chains that were of no use.
    refused: u64,
}

// SAFETY: the pointers in `pieces` lead into `memory`, which is kept alive beside them.
unsafe impl Send for ReceiveBuffers {}

impl ReceiveBuffers {
    pub(super) fn new(memory: GuestRam, merge: bool) -> Self {
        let tracked = memory.iter().any(|region| region.bitmap().is_some());
        Self {
            memory,
            pieces: Vec::with_capacity(2 * PIECES_MAX),
            addresses: Vec::with_capacity(2 * PIECES_MAX),
            first: 0,
            held: VecDeque::with_capacity(256),
            capacity: 0,
            merge,
            doorbell: true,
            tracked,
            peak: 0,
            spill: vec![0; FRAME_MAX],
            used: Vec::with_capacity(64),
            refused: 0,
        }
    }

    /// How many chains are held.
    pub(super) fn held(&self) -> u16 {
        u16::try_from(self.held.len()).unwrap_or(u16::MAX)
    }

    /// Chains refused since they were last taken.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Chains refused since the last call.
    pub(super) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    #[cfg(test)]
    pub(super) fn most_pieces(&self) -> usize {
        self.pieces
            .capacity()
            .max(self.addresses.capacity())
            .max(self.held.capacity())
    }

    /// Bytes of the next frame that go straight into the guest: all held chains, or the first alone where the
    /// driver wants no merging.
    pub(super) fn room(&self) -> usize {
        let room = if self.merge {
            self.capacity
        } else {
            self.held.front().map_or(0, |chain| chain.len)
        };
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Takes chains from the ring until a frame of `len` bytes fits.
    pub(super) fn gather(&mut self, queue: &mut ActiveQueue, len: usize) -> Result<Gathered, QueueFault> {
        let gathered = self.take_chains(queue, len)?;
        if gathered != Gathered::Starved && self.doorbell {
            queue.disable_notification()?;
            self.doorbell = false;
        }
        Ok(gathered)
    }

    /// A guest that adds useless chains as fast as they go back gets no more than one ring of them per call.
    fn take_chains(&mut self, queue: &mut ActiveQueue, len: usize) -> Result<Gathered, QueueFault> {
        let memory = Arc::clone(queue.memory());
        let wanted = if self.merge { len } else { 1 };
        for _ in 0..=queue.size() {
            self.give_back_useless(queue)?;
            if self.room() >= wanted {
                return Ok(Gathered::Enough);
            }
            if self.held() >= queue.size() {
                return Ok(Gathered::Full);
            }
            match queue.pop(&memory)? {
                Some(chain) if self.hold(&chain) => {}
                Some(_) => {
                    queue.undo_pop(1);
                    return Ok(Gathered::Full);
                }
                None => {
                    self.doorbell = true;
                    if !queue.enable_notification()? {
                        return Ok(Gathered::Starved);
                    }
                }
            }
        }
        self.give_back_useless(queue)?;
        Ok(Gathered::Full)
    }

    /// Adds a chain to the held ones; false if there is no place for it now.
    fn hold(&mut self, chain: &Chain<'_>) -> bool {
        let before = self.pieces.len();
        let head = chain.head_index();
        let (pieces, addresses) = (&mut self.pieces, &mut self.addresses);
        let limit = self.first.saturating_add(PIECES_MAX - 1);
        let mut len = 0u64;
        let result = walk(chain.clone(), true, |address, piece| {
            if pieces.len() >= limit {
                return Err(ChainError::TooManyPieces);
            }
            pieces.push(piece);
            addresses.push(address);
            len = len.saturating_add(piece.iov_len as u64);
            Ok(())
        });
        if result == Err(ChainError::TooManyPieces) && before > self.first {
            self.forget(before);
            return false;
        }
        // Every buffer must at least hold the header (virtio 1.2 §5.1.6.3.1).
        if result.is_err() || len < HEADER_LEN as u64 {
            self.forget(before);
            self.refused = self.refused.saturating_add(1);
            len = 0;
        }
        let count = self.pieces.len().saturating_sub(before);
        self.held.push_back(Held {
            head,
            pieces: u16::try_from(count).unwrap_or(u16::MAX),
            len,
        });
        self.capacity = self.capacity.saturating_add(len);
        true
    }

    fn forget(&mut self, from: usize) {
        self.pieces.truncate(from);
        self.addresses.truncate(from);
    }

    /// Gives back useless chains that nothing usable precedes.
    fn give_back_useless(&mut self, queue: &mut ActiveQueue) -> Result<(), QueueFault> {
        while self.held.front().is_some_and(|chain| chain.len == 0) {
            if let Some(chain) = self.held.pop_front() {
                queue.push_used(&[(chain.head, 0)])?;
            }
        }
        Ok(())
    }

    /// Lets `receive` fill the buffers, and the spill behind them if they might not do.
    ///
    /// Without merging, only one useful chain is ever held.
    pub(super) fn fill<R>(&mut self, receive: impl FnOnce(&Scatter<'_>) -> R) -> R {
        let end = self.pieces.len();
        if self.room() < FRAME_MAX {
            let (iov_base, iov_len) = (self.spill.as_mut_ptr().cast(), self.spill.len());
            self.pieces.push(iovec { iov_base, iov_len });
        }
        let pieces = self.pieces.get(self.first..).unwrap_or_default();
        // SAFETY: the pieces lie in `memory`, whose users all access it as volatile; `spill` is borrowed exclusively.
        let result = receive(&unsafe { Scatter::new(pieces) });
        self.pieces.truncate(end);
        result
    }

    /// Copies the spilled end of a frame of `len` bytes to where it belongs, now that there is room.
    pub(super) fn unspill(&mut self, placed: usize, len: usize) {
        let count = len.saturating_sub(placed).min(self.spill.len());
        let spill = std::mem::take(&mut self.spill);
        self.write(placed, spill.get(..count).unwrap_or_default());
        self.spill = spill;
    }

    /// Writes `bytes` at `offset` of the frame.
    pub(super) fn write(&self, mut offset: usize, mut bytes: &[u8]) {
        for piece in self.pieces.get(self.first..).unwrap_or_default() {
            if offset >= piece.iov_len {
                offset = offset.saturating_sub(piece.iov_len);
                continue;
            }
            // SAFETY: the piece lies in `memory`, and others access it as we do.
            let slice = unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) };
            let count = slice.len().saturating_sub(offset).min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            if let Ok(place) = slice.offset(offset) {
                place.copy_from(part);
            }
            (offset, bytes) = (0, rest);
            if bytes.is_empty() {
                break;
            }
        }
    }

    /// Gives a frame of `len` bytes that lies in the buffers to the driver, all its chains at once.
    pub(super) fn publish(&mut self, queue: &mut ActiveQueue, len: usize) -> Result<(), QueueFault> {
        self.used.clear();
        let (mut left, mut buffers, mut pieces) = (len as u64, 0u16, 0usize);
        for chain in &self.held {
            if left == 0 {
                break;
            }
            let part = left.min(chain.len);
            left = left.saturating_sub(part);
            buffers = buffers.saturating_add(u16::from(chain.len > 0));
            pieces = pieces.saturating_add(chain.pieces.into());
            self.used
                .push((chain.head, u32::try_from(part).unwrap_or(u32::MAX)));
            self.capacity = self.capacity.saturating_sub(chain.len);
        }
        self.write(NUM_BUFFERS_OFFSET, &buffers.to_le_bytes());
        if self.tracked {
            self.mark_written(len);
        }
        queue.push_used(&self.used)?;
        self.held.drain(..self.used.len());
        self.first = self.first.saturating_add(pieces);
        if self.first >= PIECES_MAX || self.held.is_empty() {
            self.pieces.drain(..self.first);
            self.addresses.drain(..self.first);
            self.first = 0;
        }
        self.give_back_useless(queue)
    }

    /// Tells the dirty page trackers of the first `len` bytes, which the host kernel wrote behind their backs.
    fn mark_written(&self, len: usize) {
        let mut left = len;
        let from = |list: usize| list.min(self.addresses.len());
        let (pieces, addresses) = (
            self.pieces.get(self.first..),
            self.addresses.get(from(self.first)..),
        );
        for (piece, address) in pieces
            .unwrap_or_default()
            .iter()
            .zip(addresses.unwrap_or_default())
        {
            let count = piece.iov_len.min(left);
            if let Ok(slice) = self.memory.get_slice(*address, count) {
                slice.bitmap().mark_dirty(0, count);
            }
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    }

    /// Notes, at a doorbell, how many chains the driver has given us.
    pub(super) fn note_peak(&mut self, queue: &ActiveQueue) -> Result<(), QueueFault> {
        self.peak = self.peak.max(queue.outstanding()?);
        Ok(())
    }

    /// Whether the driver has nothing more to give, as far as it ever showed: waiting for a larger room is in vain.
    pub(super) fn all_in_hand(&self) -> bool {
        self.held() >= self.peak
    }
}
