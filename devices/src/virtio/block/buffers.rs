//! Guest memory as a list of buffers for one transfer.

use std::io;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, VolatileSlice};

use crate::virtio::queue::{QueueMemory, RamSlice};

/// What the host does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The host reads from it (the guest's data goes to the disk).
    Read,
    /// The host writes into it (data of the disk goes to the guest); its pages count as dirty.
    Write,
}

/// The buffers of one transfer, in order, as vectors for the kernel. They may overlap, and the guest may change them
/// at any time, so they are never a slice of Rust's.
///
/// Holds on to the memory it points into: whoever owns a `GuestBuffers` may let the kernel use it, even after the
/// device was reset or the microVM dropped its own reference.
#[derive(Default)]
pub struct GuestBuffers {
    memory: Option<Arc<QueueMemory>>,
    vectors: Vec<libc::iovec>,
    /// The first vector that is not used up.
    first: usize,
    remaining: u64,
}

// SAFETY: the vectors point into the mappings that `memory` keeps alive, which belong to no thread; what is behind them
// is only touched by the kernel and through volatile accesses.
unsafe impl Send for GuestBuffers {}

impl GuestBuffers {
    /// Empties the list and lets it point into `memory` from now on. Keeps its capacity.
    pub fn begin(&mut self, memory: &Arc<QueueMemory>) {
        self.vectors.clear();
        self.first = 0;
        self.remaining = 0;
        if !self.memory.as_ref().is_some_and(|held| Arc::ptr_eq(held, memory)) {
            self.memory = Some(Arc::clone(memory));
        }
    }

    /// Adds `len` bytes of guest memory at `address`.
    ///
    /// Pages that the host will write into are marked dirty now; see
    /// [`quiesce`](crate::virtio::VirtioDevice::quiesce) for why that is early enough.
    pub fn push(&mut self, address: GuestAddress, len: u32, access: Access) -> Result<(), GuestMemoryError> {
        let Self {
            memory: Some(memory),
            vectors,
            remaining,
            ..
        } = self
        else {
            return Err(GuestMemoryError::InvalidGuestAddress(address));
        };
        let mut add = |slice: RamSlice<'_>| {
            if access == Access::Write {
                slice.bitmap().mark_dirty(0, slice.len());
            }
            let base = slice.ptr_guard_mut().as_ptr();
            *remaining = remaining.saturating_add(slice.len() as u64);
            match vectors.last_mut() {
                Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == base.cast() => {
                    last.iov_len = last.iov_len.saturating_add(slice.len());
                }
                _ => vectors.push(libc::iovec {
                    iov_base: base.cast(),
                    iov_len: slice.len(),
                }),
            }
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if let Some(slice) = memory.slice(address, len) {
            add(slice);
            return Ok(());
        }
        for slice in GuestMemoryBackend::get_slices(memory.ram(), address, len) {
            add(slice?);
        }
        Ok(())
    }

    /// Bytes that are not used up.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Vectors that are not used up. Valid for the kernel as long as `self` lives, and stays where it is when
    /// `self` is moved.
    pub fn vectors(&self) -> &[libc::iovec] {
        self.vectors.get(self.first..).unwrap_or_default()
    }

    /// Takes the next `count` bytes as used up.
    pub fn advance(&mut self, count: usize) {
        self.consume(count, |_| Ok(())).unwrap_or_default();
    }

    /// Copies `bytes` into the next buffers and uses these up. Fails when they are too small.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.consume(bytes.len(), |slice| {
            let (now, later) = bytes
                .split_at_checked(slice.len())
                .ok_or(io::ErrorKind::WriteZero)?;
            slice.copy_from(now);
            bytes = later;
            Ok(())
        })?;
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Fills what is not used up with zeroes, and uses it up.
    pub fn zero_rest(&mut self) {
        const ZEROES: [u8; 4096] = [0; 4096];
        self.consume(usize::MAX, |slice| {
            let mut done: usize = 0;
            while done < slice.len() {
                let part = slice.offset(done).map_err(io::Error::other)?;
                part.copy_from(&ZEROES);
                done = done.saturating_add(ZEROES.len());
            }
            Ok(())
        })
        .unwrap_or_default();
    }

    /// Lets go of the memory. Keeps the list's capacity.
    pub fn release(&mut self) {
        self.vectors.clear();
        self.first = 0;
        self.remaining = 0;
        self.memory = None;
    }

    /// Uses up to `count` bytes up, and shows each piece to `visit` before.
    fn consume(
        &mut self,
        mut count: usize,
        mut visit: impl FnMut(&VolatileSlice<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        while count > 0 {
            let Some(vector) = self.vectors.get_mut(self.first) else {
                break;
            };
            let piece = vector.iov_len.min(count);
            // SAFETY: the vector lies inside a mapping that `self.memory` keeps alive.
            visit(&unsafe { VolatileSlice::new(vector.iov_base.cast(), piece) })?;
            vector.iov_base = vector.iov_base.wrapping_byte_add(piece);
            vector.iov_len = vector.iov_len.saturating_sub(piece);
            if vector.iov_len == 0 {
                self.first = self.first.saturating_add(1);
            }
            count = count.saturating_sub(piece);
            self.remaining = self.remaining.saturating_sub(piece as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::virtio::testing::tracked_memory;

    fn memory() -> Arc<QueueMemory> {
        let ram = tracked_memory(&[(0, 0x1000), (0x1000, 0x1000), (0x8000, 0x1000)]);
        Arc::new(QueueMemory::new(ram))
    }

    #[test]
    fn a_buffer_may_span_regions_and_touching_buffers_become_one() {
        let memory = memory();
        let mut buffers = GuestBuffers::default();
        buffers.begin(&memory);
        buffers.push(GuestAddress(0xff0), 0x20, Access::Write).unwrap();
        buffers.push(GuestAddress(0x1010), 0x10, Access::Write).unwrap();
        assert_eq!(buffers.remaining(), 0x30);
        buffers.write(&[7; 0x18]).unwrap();
        buffers.zero_rest();
        assert!(buffers.vectors().is_empty());
        let mut data = [9; 0x30];
        memory.ram().read_slice(&mut data, GuestAddress(0xff0)).unwrap();
        assert_eq!(data[..0x18], [7; 0x18]);
        assert_eq!(data[0x18..], [0; 0x18]);

        buffers.begin(&memory);
        buffers.push(GuestAddress(0x8000), 0x10, Access::Read).unwrap();
        buffers.push(GuestAddress(0x8010), 0x10, Access::Read).unwrap();
        assert_eq!(buffers.vectors().len(), 1);
        assert_eq!(buffers.vectors()[0].iov_len, 0x20);
    }

    #[test]
    fn memory_that_is_not_there_is_refused() {
        let memory = memory();
        let mut buffers = GuestBuffers::default();
        assert!(
            buffers.push(GuestAddress(0), 1, Access::Read).is_err(),
            "not begun"
        );
        buffers.begin(&memory);
        for (address, len) in [
            (0x2000, 1),
            (0x1fff, 2),
            (u64::MAX, 2),
            (u64::MAX, 1),
            (0x8000, u32::MAX),
        ] {
            buffers.begin(&memory);
            assert!(
                buffers.push(GuestAddress(address), len, Access::Read).is_err(),
                "{address:#x}"
            );
        }
    }

    #[test]
    fn writing_more_than_fits_is_an_error() {
        let memory = memory();
        let mut buffers = GuestBuffers::default();
        buffers.begin(&memory);
        buffers.push(GuestAddress(0), 3, Access::Write).unwrap();
        assert!(buffers.write(&[1; 4]).is_err());
    }

    #[test]
    fn the_memory_outlives_its_owner_as_long_as_buffers_point_into_it() {
        let memory = memory();
        let mut buffers = GuestBuffers::default();
        buffers.begin(&memory);
        buffers.push(GuestAddress(0), 16, Access::Write).unwrap();
        let weak = Arc::downgrade(&memory);
        drop(memory);
        assert!(weak.upgrade().is_some());
        buffers.write(&[1; 16]).unwrap();
        buffers.release();
        assert!(weak.upgrade().is_none());
    }
}
