//! Chains of descriptors (virtio 1.2 §2.7.5).

use virtio_queue::desc::split::Descriptor;

use super::memory::{QueueMemory, Table};

/// Descriptors of one chain that a device looks at. A chain must not be longer than its queue (virtio 1.2
/// §2.7.5.3.1), and no device here has queues this long; a hostile one would only cost time.
pub const MAX_DESCRIPTORS: usize = 1024;

/// Size of a descriptor in bytes.
const DESCRIPTOR: u32 = 16;

/// A chain of descriptors that the driver made available.
///
/// It ends by itself where the driver breaks the rules: loops, indices beyond a table, tables outside memory, more than
/// 4 GiB. Yet an indirect table can have 65,535 entries: devices look at no more than [`MAX_DESCRIPTORS`].
#[derive(Clone)]
pub struct Chain<'a> {
    memory: &'a QueueMemory,
    table: Table<'a>,
    /// Descriptors in the table.
    size: u16,
    head: u16,
    next: u16,
    /// How many more the chain may have: as many as its table, or it loops.
    left: u16,
    bytes: u32,
    indirect: bool,
}

impl<'a> Chain<'a> {
    /// The chain that begins with descriptor `head` of the queue's table; `None` without a table.
    pub(super) fn new(memory: &'a QueueMemory, head: u16) -> Option<Self> {
        let (table, size) = memory.table()?;
        Some(Self {
            memory,
            table,
            size,
            head,
            next: head,
            left: size,
            bytes: 0,
            indirect: false,
        })
    }

    /// Index of the first descriptor, by which the chain is given back.
    pub fn head_index(&self) -> u16 {
        self.head
    }

    /// The guest's memory.
    pub fn memory(&self) -> &'a QueueMemory {
        self.memory
    }

    /// Goes on in the table that `descriptor` refers to (virtio 1.2 §2.7.5.3). There is no table in a table.
    fn enter(&mut self, descriptor: &Descriptor) -> Option<()> {
        let entries = u16::try_from(descriptor.len() / DESCRIPTOR).ok()?;
        if self.indirect || !descriptor.len().is_multiple_of(DESCRIPTOR) {
            return None;
        }
        self.table = self.memory.table_at(descriptor.addr())?;
        (self.size, self.left, self.next, self.indirect) = (entries, entries, 0, true);
        Some(())
    }

    fn read(&self) -> Option<Descriptor> {
        if self.left == 0 || self.next >= self.size {
            return None;
        }
        self.table.descriptor(self.next)
    }

    fn step(&mut self) -> Option<Descriptor> {
        let mut descriptor = self.read()?;
        if descriptor.refers_to_indirect_table() {
            self.enter(&descriptor)?;
            descriptor = self.read()?;
            if descriptor.refers_to_indirect_table() {
                return None;
            }
        }
        // A chain of more than 2³² bytes is not allowed (virtio 1.2 §2.7.5.2).
        self.bytes = self.bytes.checked_add(descriptor.len())?;
        self.next = descriptor.next();
        self.left = if descriptor.has_next() {
            self.left.saturating_sub(1)
        } else {
            0
        };
        Some(descriptor)
    }
}

impl Iterator for Chain<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        let descriptor = self.step();
        if descriptor.is_none() {
            self.left = 0;
        }
        descriptor
    }
}
