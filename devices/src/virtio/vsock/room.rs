//! Buffers that the driver made available for receiving, as far as one turn needs them.
//!
//! ```text
//! chains     [ A ][ B: useless ][ C ][ D ]           in the order of the ring
//! headers    [a ]                [c ][d ]            44 bytes each, in as many pieces as the driver likes
//! data          [aaaaaaaaa]        [ccccccc][dddd]   one recvmsg(2) fills those of several packets
//! ```
//!
//! Chains are taken from the ring, and given back, in its order, so that at the end of a turn the unused ones are simply
//! the last that were taken.

use std::collections::VecDeque;

use libc::iovec;
use vm_memory::bitmap::Bitmap;

use super::packet::{HEADER_LEN, Header};
use super::pieces::{PIECES_MAX, Scatter, as_iovec, walk};
use crate::virtio::queue::{ActiveQueue, Chain, QueueFault, QueueMemory, RamSlice};

/// A chain between being taken from the ring and being given back.
struct Taken {
    head: u16,
    /// Pieces that the header lies in.
    header: usize,
    /// Pieces behind it.
    data: usize,
    /// Bytes of data; zero for a chain that is of no use and goes back as it is.
    len: usize,
}

pub(super) struct Room<'a> {
    memory: &'a QueueMemory,
    chains: VecDeque<Taken>,
    /// Pieces of all chains.
    pieces: VecDeque<RamSlice<'a>>,
    /// Bytes of data in all chains.
    len: usize,
    used: Vec<(u16, u32)>,
    /// How many more chains this turn may take. A guest that adds useless ones as fast as they go back gets no more.
    left: u32,
    /// Chains that were of no use.
    refused: u64,
    /// Whether the driver was asked to ring when it adds buffers.
    starved: bool,
}

impl<'a> Room<'a> {
    /// Room for one turn, of at most `limit` chains.
    pub(super) fn new(memory: &'a QueueMemory, limit: u32) -> Self {
        Self {
            memory,
            chains: VecDeque::new(),
            pieces: VecDeque::new(),
            len: 0,
            used: Vec::new(),
            left: limit,
            refused: 0,
            starved: false,
        }
    }

    /// Chains that were taken and not used.
    pub(super) fn unused(&self) -> u16 {
        u16::try_from(self.chains.len()).unwrap_or(u16::MAX)
    }

    /// Chains that were of no use.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether the ring was empty at the last look.
    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    /// Takes chains until there is room for `len` bytes of data, or as much as there is. False if there is none.
    pub(super) fn provide(&mut self, queue: &mut ActiveQueue, len: usize) -> Result<bool, QueueFault> {
        self.starved = false;
        while self.len < len && self.pieces.len() < PIECES_MAX && self.left > 0 {
            match queue.pop(self.memory)? {
                Some(chain) => self.take(chain),
                None => {
                    self.starved = true;
                    break;
                }
            }
        }
        self.give_back_useless(queue)?;
        Ok(self.len > 0)
    }

    fn take(&mut self, chain: Chain<'a>) {
        let head = chain.head_index();
        let before = self.pieces.len();
        let mut taken = Taken {
            head,
            header: 0,
            data: 0,
            len: 0,
        };
        if self.load(chain, &mut taken).is_none() || taken.len == 0 {
            self.pieces.truncate(before);
            (taken.header, taken.data, taken.len) = (0, 0, 0);
            self.refused = self.refused.saturating_add(1);
        }
        self.left = self.left.saturating_sub(1);
        self.len = self.len.saturating_add(taken.len);
        self.chains.push_back(taken);
    }

    fn load(&mut self, chain: Chain<'a>, taken: &mut Taken) -> Option<()> {
        let pieces = &mut self.pieces;
        let limit = pieces.len().saturating_add(PIECES_MAX);
        let mut missing = HEADER_LEN;
        walk(chain, true, |slice| {
            let (header, data) = slice.split_at(slice.len().min(missing)).ok()?;
            missing = missing.saturating_sub(header.len());
            for (piece, count) in [(header, &mut taken.header), (data, &mut taken.data)] {
                if piece.is_empty() {
                    continue;
                }
                if pieces.len() >= limit {
                    return None;
                }
                *count = count.saturating_add(1);
                taken.len = taken.len.saturating_add(piece.len());
                pieces.push_back(piece);
            }
            Some(())
        })?;
        taken.len = taken.len.checked_sub(HEADER_LEN)?;
        Some(())
    }

    fn give_back_useless(&mut self, queue: &mut ActiveQueue) -> Result<(), QueueFault> {
        while let Some(chain) = self.chains.pop_front_if(|chain| chain.len == 0) {
            queue.push_used(&[(chain.head, 0)])?;
        }
        Ok(())
    }

    /// Gives the driver a packet without data.
    pub(super) fn put(&mut self, queue: &mut ActiveQueue, header: &Header) -> Result<(), QueueFault> {
        let Some(chain) = self.chains.pop_front() else {
            return Ok(());
        };
        self.write_header(&chain, header);
        self.drop_pieces(&chain);
        queue.push_used(&[(chain.head, HEADER_LEN as u32)])?;
        self.give_back_useless(queue)
    }

    /// Lets `receive` fill at most `limit` bytes of the room. What it says is returned.
    pub(super) fn fill<R>(
        &self,
        limit: usize,
        iovecs: &mut Iovecs,
        receive: impl FnOnce(&Scatter<'_>) -> R,
    ) -> R {
        let list = &mut iovecs.0;
        list.clear();
        let (mut left, mut at) = (limit, 0usize);
        for chain in &self.chains {
            let data = at.saturating_add(chain.header);
            at = data.saturating_add(chain.data);
            for slice in self.pieces.range(data..at) {
                if left == 0 || list.len() >= PIECES_MAX {
                    break;
                }
                let mut piece = as_iovec(slice);
                piece.iov_len = piece.iov_len.min(left);
                left = left.saturating_sub(piece.iov_len);
                list.push(piece);
            }
            if left == 0 || list.len() >= PIECES_MAX {
                break;
            }
        }
        let len = list
            .iter()
            .map(|piece| piece.iov_len)
            .fold(0, usize::saturating_add);
        // SAFETY: the pieces lie in guest memory, which `self` borrows, and whose other users access it as volatile.
        receive(&unsafe { Scatter::new(list, len) })
    }

    /// Gives the driver the first `len` bytes of data, which lie in the room, in as many packets as they take. `header` is
    /// that of each, but for its length. Returns how many packets it were.
    pub(super) fn publish(
        &mut self,
        queue: &mut ActiveQueue,
        len: usize,
        header: &Header,
    ) -> Result<u64, QueueFault> {
        let mut left = len;
        let mut packets = 0u64;
        self.used.clear();
        while left > 0 {
            let Some(chain) = self.chains.pop_front() else {
                break;
            };
            let part = chain.len.min(left);
            left = left.saturating_sub(part);
            let mut written = 0;
            if part > 0 {
                self.mark_written(&chain, part);
                let len = u32::try_from(part).unwrap_or(u32::MAX);
                self.write_header(&chain, &Header { len, ..*header });
                written = len.saturating_add(HEADER_LEN as u32);
                packets = packets.saturating_add(1);
            }
            self.drop_pieces(&chain);
            self.used.push((chain.head, written));
        }
        queue.push_used(&self.used)?;
        self.give_back_useless(queue)?;
        Ok(packets)
    }

    /// Writes the header of the first chain in the list of pieces.
    fn write_header(&self, chain: &Taken, header: &Header) {
        let bytes = header.encode();
        let mut rest = &bytes[..];
        for slice in self.pieces.iter().take(chain.header) {
            slice.copy_from(rest);
            rest = rest.get(slice.len()..).unwrap_or_default();
        }
    }

    /// Tells the dirty page trackers of the first `len` bytes of data of the first chain, which the host kernel wrote
    /// behind their backs.
    fn mark_written(&self, chain: &Taken, len: usize) {
        let mut left = len;
        for slice in self.pieces.iter().skip(chain.header).take(chain.data) {
            let count = slice.len().min(left);
            slice.bitmap().mark_dirty(0, count);
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    }

    /// Forgets the pieces of the first chain.
    fn drop_pieces(&mut self, chain: &Taken) {
        let count = chain.header.saturating_add(chain.data).min(self.pieces.len());
        self.pieces.drain(..count);
        self.len = self.len.saturating_sub(chain.len);
    }
}

/// A list for one system call, kept from turn to turn so that none allocates.
pub(super) struct Iovecs(Vec<iovec>);

// SAFETY: the pointers left in it are never dereferenced: `fill` clears them first.
unsafe impl Send for Iovecs {}

impl Iovecs {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(64))
    }
}
