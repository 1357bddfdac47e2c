//! Plays the guest in tests: a driver's side of the rings, in real guest memory.
//!
//! ```text
//! base ─► descriptor table │ available ring │ used ring │ (page) buffers and indirect tables …
//! ```

// Test support: a wrong test should panic where it is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod driver;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use driver::{MockDoorbells, MockDriver};

use super::queue::ActiveQueue;
use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;

/// VIRTQ_DESC_F_NEXT (virtio 1.2 §2.7.5).
pub const DESC_F_NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const DESC_F_WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const DESC_F_INDIRECT: u16 = 4;

const PAGE: u64 = 0x1000;

/// Guest memory of `size` bytes from address 0 on, without dirty tracking.
pub fn guest_memory(size: usize) -> GuestRam {
    guest_memory_ranges(&[(0, size)])
}

/// Guest memory in several regions, each an address and a size.
pub fn guest_memory_ranges(ranges: &[(u64, usize)]) -> GuestRam {
    regions(ranges, false)
}

/// Guest memory in several regions, each an address and a size, that tracks dirty pages of 4 KiB.
pub fn tracked_memory(ranges: &[(u64, usize)]) -> GuestRam {
    regions(ranges, true)
}

fn regions(ranges: &[(u64, usize)], tracked: bool) -> GuestRam {
    let region = |&(address, size): &(u64, usize)| {
        let page = NonZeroUsize::new(4096).unwrap();
        let bitmap = tracked.then(|| AtomicBitmap::new(size, page));
        let mapping = MmapRegionBuilder::new_with_bitmap(size, bitmap)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .build()
            .unwrap();
        GuestRegionMmap::new(mapping, GuestAddress(address)).unwrap()
    };
    GuestRam::from_regions(ranges.iter().map(region).collect()).unwrap()
}

/// An interrupt line that counts its edges.
#[derive(Debug, Default)]
pub struct CountingLine(AtomicU64);

impl CountingLine {
    /// A line that was never triggered, ready to be shared.
    pub fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Edges since the last call.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl InterruptLine for CountingLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A buffer in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device may write it (and only write it).
    pub writable: bool,
}

/// A chain that the device gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Index of the chain's first descriptor.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// The driver's side of one split queue.
///
/// Descriptors are handed out in turn, `size` of them, without a look at whether the device has given them back.
pub struct MockQueue {
    memory: GuestRam,
    size: u16,
    base: u64,
    next_descriptor: u16,
    next_buffer: u64,
    avail: u16,
    seen: u16,
}

impl MockQueue {
    /// Lays out an empty queue of `size` descriptors at `base` (16-byte aligned). Buffers follow on the next page.
    pub fn new(memory: &GuestRam, base: u64, size: u16) -> Self {
        assert!(size.is_power_of_two() && base.is_multiple_of(16));
        let mut queue = Self {
            memory: memory.clone(),
            size,
            base,
            next_descriptor: 0,
            next_buffer: 0,
            avail: 0,
            seen: 0,
        };
        queue.next_buffer = (queue.used_ring() + 6 + 8 * u64::from(size)).next_multiple_of(PAGE);
        let rings = usize::try_from(queue.next_buffer - base).unwrap();
        memory.write_slice(&vec![0; rings], GuestAddress(base)).unwrap();
        queue
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Address of the descriptor table.
    pub fn desc_table(&self) -> u64 {
        self.base
    }

    /// Address of the available ring.
    pub fn avail_ring(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    /// Address of the used ring.
    pub fn used_ring(&self) -> u64 {
        (self.avail_ring() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// The queue as the transport would configure it, not yet owned by a device.
    pub fn queue(&self) -> Queue {
        let halves = |address: u64| {
            (
                Some(u32::try_from(address & 0xffff_ffff).unwrap()),
                Some(u32::try_from(address >> 32).unwrap()),
            )
        };
        let mut queue = Queue::new(self.size).unwrap();
        let (low, high) = halves(self.desc_table());
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.avail_ring());
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.used_ring());
        queue.set_used_ring_address(low, high);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.memory));
        queue
    }

    /// The queue as a device gets it at DRIVER_OK, with the event index if `event_index`, and its doorbell.
    pub fn activate(&self, line: Arc<CountingLine>, event_index: bool) -> (ActiveQueue, Arc<EventFd>) {
        let mut queue = self.queue();
        queue.set_event_idx(event_index);
        let doorbell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        (
            ActiveQueue::new(queue, self.memory.clone(), line, doorbell.clone()).unwrap(),
            doorbell,
        )
    }

    /// A fresh buffer that the device reads `data` from.
    pub fn readable(&mut self, data: &[u8]) -> Buffer {
        let address = self.allocate(data.len());
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
        Buffer {
            address,
            len: u32::try_from(data.len()).unwrap(),
            writable: false,
        }
    }

    /// A fresh buffer of `len` bytes of 0xa5 that the device writes to.
    pub fn writable(&mut self, len: usize) -> Buffer {
        let address = self.allocate(len);
        self.memory
            .write_slice(&vec![0xa5; len], GuestAddress(address))
            .unwrap();
        Buffer {
            address,
            len: u32::try_from(len).unwrap(),
            writable: true,
        }
    }

    /// What a buffer holds now.
    pub fn contents(&self, buffer: Buffer) -> Vec<u8> {
        let mut data = vec![0; usize::try_from(buffer.len).unwrap()];
        self.memory
            .read_slice(&mut data, GuestAddress(buffer.address))
            .unwrap();
        data
    }

    /// Makes `buffers` available as one chain; returns its head index.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor % self.size;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.take_descriptor();
            let last = position + 1 == buffers.len();
            self.write_descriptor(
                index,
                to_descriptor(*buffer, last, self.next_descriptor % self.size),
            );
        }
        self.publish(head);
        head
    }

    /// Like [`add`](Self::add), with the descriptors in an indirect table (virtio 1.2 §2.7.5.3).
    pub fn add_indirect(&mut self, buffers: &[Buffer]) -> u16 {
        let table = self.allocate(16 * buffers.len());
        for (position, buffer) in buffers.iter().enumerate() {
            let last = position + 1 == buffers.len();
            let next = u16::try_from(position + 1).unwrap();
            let address = table + 16 * u64::try_from(position).unwrap();
            self.memory
                .write_obj(to_descriptor(*buffer, last, next), GuestAddress(address))
                .unwrap();
        }
        let head = self.take_descriptor();
        let len = u32::try_from(16 * buffers.len()).unwrap();
        self.write_descriptor(head, Descriptor::new(table, len, DESC_F_INDIRECT, 0));
        self.publish(head);
        head
    }

    /// Reserves the next descriptor index.
    pub fn take_descriptor(&mut self) -> u16 {
        let index = self.next_descriptor % self.size;
        self.next_descriptor = (index + 1) % self.size;
        index
    }

    /// Writes a descriptor as it is, sensible or not. See [`Descriptor::new`] for its parts.
    pub fn write_descriptor(&mut self, index: u16, descriptor: Descriptor) {
        let address = self.base + 16 * u64::from(index);
        self.memory.write_obj(descriptor, GuestAddress(address)).unwrap();
    }

    /// Makes the chain at `head` available, whatever is there.
    pub fn publish(&mut self, head: u16) {
        let slot = self.avail_ring() + 4 + 2 * u64::from(self.avail % self.size);
        self.memory.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        self.set_avail_index(self.avail.wrapping_add(1));
    }

    /// Sets the available index, also to nonsense.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail = index;
        self.memory
            .store(
                index.to_le(),
                GuestAddress(self.avail_ring() + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    /// Sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT.
    pub fn set_no_interrupt(&mut self, suppress: bool) {
        self.memory
            .write_obj(u16::from(suppress).to_le(), GuestAddress(self.avail_ring()))
            .unwrap();
    }

    /// Asks for an interrupt when the used index passes `index` (event index only).
    pub fn set_used_event(&mut self, index: u16) {
        let address = self.avail_ring() + 4 + 2 * u64::from(self.size);
        self.memory
            .write_obj(index.to_le(), GuestAddress(address))
            .unwrap();
    }

    /// The device's wish to be rung at this available index (event index only).
    pub fn avail_event(&self) -> u16 {
        let address = self.used_ring() + 4 + 8 * u64::from(self.size);
        u16::from_le(self.memory.read_obj(GuestAddress(address)).unwrap())
    }

    /// Whether the device asks not to be rung (VIRTQ_USED_F_NO_NOTIFY).
    pub fn no_notify(&self) -> bool {
        u16::from_le(self.memory.read_obj(GuestAddress(self.used_ring())).unwrap()) & 1 != 0
    }

    /// The device's used index.
    pub fn used_index(&self) -> u16 {
        u16::from_le(
            self.memory
                .load(GuestAddress(self.used_ring() + 2), Ordering::Acquire)
                .unwrap(),
        )
    }

    /// Chains that the device gave back since the last call.
    pub fn used(&mut self) -> Vec<Used> {
        let mut used = Vec::new();
        while self.seen != self.used_index() {
            let address = self.used_ring() + 4 + 8 * u64::from(self.seen % self.size);
            let [head, len]: [u32; 2] = self.memory.read_obj(GuestAddress(address)).unwrap();
            used.push(Used {
                head: u16::try_from(u32::from_le(head)).unwrap(),
                len: u32::from_le(len),
            });
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }

    /// An unused, 16-byte aligned place in memory.
    pub fn allocate(&mut self, len: usize) -> u64 {
        let address = self.next_buffer;
        self.next_buffer = (address + u64::try_from(len).unwrap()).next_multiple_of(16);
        address
    }
}

fn to_descriptor(buffer: Buffer, last: bool, next: u16) -> Descriptor {
    let write = if buffer.writable { DESC_F_WRITE } else { 0 };
    let chained = if last { 0 } else { DESC_F_NEXT };
    Descriptor::new(
        buffer.address,
        buffer.len,
        write | chained,
        if last { 0 } else { next },
    )
}
