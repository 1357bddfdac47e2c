//! What carries the frames on the host: a tap, or a list in memory in tests.

use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;

use libc::iovec;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
};
use vm_memory::VolatileSlice;

use super::packet::{PREFIX_LEN, has};

/// What the guest accepts in the frames it receives: work that the host need not do before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Packets whose checksum is still to be computed.
    pub checksum: bool,
    /// TCP over IPv4 larger than a segment.
    pub tso4: bool,
    /// TCP over IPv6 larger than a segment.
    pub tso6: bool,
    /// UDP datagrams larger than a fragment.
    pub ufo: bool,
}

impl Offloads {
    /// What negotiated features allow. Every segmentation requires the checksum (virtio 1.2 §5.1.3.1): one negotiated
    /// without it is not used.
    pub fn from_features(features: u64) -> Self {
        let checksum = has(features, VIRTIO_NET_F_GUEST_CSUM);
        Self {
            checksum,
            tso4: checksum && has(features, VIRTIO_NET_F_GUEST_TSO4),
            tso6: checksum && has(features, VIRTIO_NET_F_GUEST_TSO6),
            ufo: checksum && has(features, VIRTIO_NET_F_GUEST_UFO),
        }
    }
}

/// Carries Ethernet frames, each behind a virtio header of 12 bytes.
pub trait NetBackend: Send {
    /// Becomes readable when a frame arrives. The same for the backend's whole life.
    fn fd(&self) -> RawFd;

    /// From now on frames may use `offloads`, and no others.
    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Receives one frame and returns its length in bytes; what is beyond the end of `into` is lost. An error of kind
    /// `WouldBlock` says that there is none. `num_buffers` need not be written.
    fn receive(&mut self, into: &Scatter<'_>) -> io::Result<usize>;

    /// Sends one frame. On an error of any kind the frame is lost.
    fn send(&mut self, frame: &Gather<'_>) -> io::Result<()>;

    /// Loses the frames that wait to be received, or at least the first thousand.
    ///
    /// Called after the offloads were withdrawn: a frame that was queued before may use what the next driver does
    /// not accept.
    fn discard(&mut self) {
        let mut bin = [0u8; PREFIX_LEN];
        let piece = iovec {
            iov_base: bin.as_mut_ptr().cast(),
            iov_len: bin.len(),
        };
        for _ in 0..1000 {
            // SAFETY: `bin` outlives the call and is not used otherwise.
            let into = unsafe { Scatter::new(std::slice::from_ref(&piece)) };
            if self.receive(&into).is_err() {
                break;
            }
        }
    }
}

/// Memory of the guest that a frame is written to, in order.
pub struct Scatter<'a> {
    pieces: &'a [iovec],
    memory: PhantomData<&'a ()>,
}

impl<'a> Scatter<'a> {
    /// # Safety
    ///
    /// Every piece must be mapped memory that may be written during `'a`, and of which no Rust reference exists.
    pub(super) unsafe fn new(pieces: &'a [iovec]) -> Self {
        Self {
            pieces,
            memory: PhantomData,
        }
    }

    /// For `readv(2)`. At most 1024 pieces.
    pub fn pieces(&self) -> &[iovec] {
        self.pieces
    }

    /// Copies `bytes` to the beginning and returns how many fitted.
    pub fn write(&self, mut bytes: &[u8]) -> usize {
        let before = bytes.len();
        for piece in self.pieces {
            // SAFETY: `new` promised that the piece may be written, and that others access it as we do.
            let slice = unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) };
            slice.copy_from(bytes);
            bytes = bytes.get(piece.iov_len..).unwrap_or_default();
        }
        before.saturating_sub(bytes.len())
    }
}

/// Memory that makes up a frame, in order.
pub struct Gather<'a> {
    pieces: &'a [iovec],
    memory: PhantomData<&'a ()>,
}

impl<'a> Gather<'a> {
    /// # Safety
    ///
    /// Every piece must be mapped memory that may be read during `'a`, and of which no mutable Rust reference exists.
    pub(super) unsafe fn new(pieces: &'a [iovec]) -> Self {
        Self {
            pieces,
            memory: PhantomData,
        }
    }

    /// For `writev(2)`. At most 1024 pieces, some of which may be empty.
    pub fn pieces(&self) -> &[iovec] {
        self.pieces
    }

    /// Copies the frame, as far as it fits, to `bytes` and returns how many bytes it was.
    pub fn read(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0usize;
        for piece in self.pieces {
            // SAFETY: `new` promised that the piece may be read, and that others access it as we do.
            let slice = unsafe { VolatileSlice::<()>::new(piece.iov_base.cast(), piece.iov_len) };
            let copied = slice.copy_to(bytes.get_mut(done..).unwrap_or_default());
            done = done.saturating_add(copied);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn a_segmentation_without_the_checksum_it_needs_is_not_used() {
        let tso = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6 | 1 << VIRTIO_NET_F_GUEST_UFO;
        assert_eq!(Offloads::from_features(tso), Offloads::default());
        let all = Offloads::from_features(tso | 1 << VIRTIO_NET_F_GUEST_CSUM);
        assert_eq!(
            all,
            Offloads {
                checksum: true,
                tso4: true,
                tso6: true,
                ufo: true
            }
        );
    }
}
