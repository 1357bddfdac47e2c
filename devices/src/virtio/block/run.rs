//! The bytes of a request, wherever its driver cut them into descriptors.

use vm_memory::{Address, GuestAddress, GuestMemoryError};

use super::request::RequestError;
use crate::virtio::queue::QueueMemory;

/// The bytes of one direction of a chain.
#[derive(Default)]
pub(super) struct Run {
    pub(super) segments: Vec<(GuestAddress, u32)>,
    /// Sum of the segments' lengths; a chain has less than 2³² bytes.
    pub(super) len: u32,
}

impl Run {
    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.len = 0;
    }

    pub(super) fn push(&mut self, address: GuestAddress, len: u32) {
        if len > 0 {
            self.segments.push((address, len));
            self.len = self.len.saturating_add(len);
        }
    }

    /// Address of the last byte.
    pub(super) fn last(&self) -> Option<GuestAddress> {
        let (address, len) = self.segments.last()?;
        address.checked_add(u64::from(len.checked_sub(1)?))
    }

    /// Shows `visit` the pieces that make up the `take` bytes after the first `skip`.
    pub(super) fn pieces(
        &self,
        mut skip: u32,
        mut take: u32,
        mut visit: impl FnMut(GuestAddress, u32) -> Result<(), RequestError>,
    ) -> Result<(), RequestError> {
        for &(address, len) in &self.segments {
            if take == 0 {
                break;
            }
            let skipped = skip.min(len);
            skip = skip.saturating_sub(skipped);
            let piece = len.saturating_sub(skipped).min(take);
            if piece > 0 {
                let start = address
                    .checked_add(u64::from(skipped))
                    .ok_or(RequestError::OutsideMemory)?;
                visit(start, piece)?;
                take = take.saturating_sub(piece);
            }
        }
        Ok(())
    }

    /// Copies the 16 bytes after the first `skip`, of which there must be that many.
    pub(super) fn copy(&self, memory: &QueueMemory, skip: u32) -> Result<[u8; 16], RequestError> {
        let mut data = [0; 16];
        let mut rest = data.as_mut_slice();
        self.pieces(skip, 16, |address, len| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let (piece, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(len)
                .ok_or(RequestError::NoHeader)?;
            rest = later;
            memory.read(piece, address).map_err(outside)
        })?;
        Ok(data)
    }
}

pub(super) fn outside(_: GuestMemoryError) -> RequestError {
    RequestError::OutsideMemory
}

/// Little-endian fields of a header or range.
pub(super) struct Words(pub(super) [u8; 16]);

impl Words {
    pub(super) fn u32_at<const AT: usize>(&self) -> u32 {
        let word = self.0.get(AT..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(word.copied().unwrap_or_default())
    }

    pub(super) fn u64_at<const AT: usize>(&self) -> u64 {
        let word = self.0.get(AT..).and_then(|rest| rest.first_chunk());
        u64::from_le_bytes(word.copied().unwrap_or_default())
    }
}
