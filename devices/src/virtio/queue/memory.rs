//! Guest memory as queues see it: looked up once, then accessed at an offset.
//!
//! A chain costs several accesses of a few bytes each: indices, ring entries, descriptors. `vm-memory` looks every one
//! of them up anew, in a way that is made for any length across any number of regions, and that takes longer than
//! all other work on a queue. What is kept here is the mapping that a ring lies in and its place there. Every access is
//! checked against the end of the mapping, and written pages are marked dirty, as ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::{AtomicBitmap, BS, Bitmap};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, MmapRegion, VolatileMemory,
    VolatileSlice,
};

use super::QueueFault;
use crate::memory::GuestRam;

type Tracker = Option<AtomicBitmap>;

/// Bytes of guest memory that lie in one mapping.
pub type RamSlice<'a> = VolatileSlice<'a, BS<'a, Tracker>>;

/// The guest's memory as the device of one queue uses it, kept mapped.
pub struct QueueMemory {
    ram: GuestRam,
    /// Start and mapping of each region. A microVM has one or two.
    regions: Vec<(u64, Arc<MmapRegion<Tracker>>)>,
    /// The queue's descriptors, and how many they are.
    table: Option<(Place, u16)>,
}

impl QueueMemory {
    /// The memory `ram`, without a queue.
    pub fn new(ram: GuestRam) -> Self {
        let regions = GuestMemoryBackend::iter(&ram).map(|region| (region.start_addr().0, region.get_mmap()));
        Self {
            regions: regions.collect(),
            ram,
            table: None,
        }
    }

    /// The same, for a queue whose descriptor table has `size` entries at `address`.
    pub(super) fn with_table(mut self, address: u64, size: u16) -> Result<Self, QueueFault> {
        let place = self.place(address, usize::from(size).saturating_mul(size_of::<Descriptor>()))?;
        self.table = Some((place, size));
        Ok(self)
    }

    /// The memory by itself.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The `len` bytes at `address`, or `None` when they do not lie in one region: across the border of two, or not
    /// in memory at all.
    pub fn slice(&self, address: GuestAddress, len: usize) -> Option<RamSlice<'_>> {
        let (mapping, start) = self.find(address.0, len)?;
        mapping.get_slice(start, len).ok()
    }

    /// Copies the bytes at `address`.
    pub fn read(&self, bytes: &mut [u8], address: GuestAddress) -> Result<(), GuestMemoryError> {
        match self.slice(address, bytes.len()) {
            Some(slice) => {
                slice.copy_to(bytes);
                Ok(())
            }
            None => self.ram.read_slice(bytes, address),
        }
    }

    /// Writes `bytes` at `address`.
    pub fn write(&self, bytes: &[u8], address: GuestAddress) -> Result<(), GuestMemoryError> {
        match self.slice(address, bytes.len()) {
            Some(slice) => {
                slice.copy_from(bytes);
                Ok(())
            }
            None => self.ram.write_slice(bytes, address),
        }
    }

    /// The place at `address`, of which at least `len` bytes lie in one region.
    pub(super) fn place(&self, address: u64, len: usize) -> Result<Place, QueueFault> {
        let (mapping, start) = self.find(address, len).ok_or(QueueFault::Memory)?;
        let mapping = Arc::clone(mapping);
        Ok(Place { mapping, start })
    }

    /// The queue's own table, and the number of its descriptors.
    pub(super) fn table(&self) -> Option<(Table<'_>, u16)> {
        let (place, size) = self.table.as_ref()?;
        let table = Table {
            mapping: &place.mapping,
            start: place.start,
        };
        Some((table, *size))
    }

    /// The table at `address`. Where it ends is noticed when it is read.
    pub(super) fn table_at(&self, address: GuestAddress) -> Option<Table<'_>> {
        let (mapping, start) = self.find(address.0, 1)?;
        Some(Table { mapping, start })
    }

    /// The mapping that holds `len` bytes at `address`, and where.
    fn find(&self, address: u64, len: usize) -> Option<(&Arc<MmapRegion<Tracker>>, usize)> {
        self.regions.iter().find_map(|(start, mapping)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            let fits = len <= mapping.size().checked_sub(offset)?;
            fits.then_some((mapping, offset))
        })
    }
}

/// A place in guest memory, from which offsets count.
pub(super) struct Place {
    mapping: Arc<MmapRegion<Tracker>>,
    start: usize,
}

impl Place {
    /// A 16-bit field, which the driver may write at any time.
    pub(super) fn load(&self, offset: usize, order: Ordering) -> Result<u16, QueueFault> {
        let field = self.mapping.get_atomic_ref::<AtomicU16>(self.at(offset)?);
        let field = field.map_err(|_| QueueFault::Memory)?;
        Ok(u16::from_le(field.load(order)))
    }

    /// Sets a 16-bit field that the driver may read at any time.
    pub(super) fn store(&self, offset: usize, value: u16, order: Ordering) -> Result<(), QueueFault> {
        let at = self.at(offset)?;
        let field = self.mapping.get_atomic_ref::<AtomicU16>(at);
        let field = field.map_err(|_| QueueFault::Memory)?;
        field.store(value.to_le(), order);
        self.mapping.bitmap().mark_dirty(at, size_of::<u16>());
        Ok(())
    }

    /// Writes 64 bits that the driver looks at only when it is told so.
    pub(super) fn write(&self, offset: usize, value: u64) -> Result<(), QueueFault> {
        let place = self.mapping.get_ref::<u64>(self.at(offset)?);
        place.map_err(|_| QueueFault::Memory)?.store(value.to_le());
        Ok(())
    }

    fn at(&self, offset: usize) -> Result<usize, QueueFault> {
        match self.start.checked_add(offset) {
            Some(at) => Ok(at),
            None => Err(QueueFault::Memory),
        }
    }
}

/// A table of descriptors.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    mapping: &'a MmapRegion<Tracker>,
    start: usize,
}

impl Table<'_> {
    /// Copies a descriptor, or `None` beyond the end of the mapping. It need not be aligned.
    pub(super) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        let offset = usize::from(index).checked_mul(size_of::<Descriptor>())?;
        let place = self.mapping.get_ref(self.start.checked_add(offset)?);
        place.ok().map(|place| place.load())
    }
}
