//! A queue while its device is active, and the one loop that drains it.
//!
//! `virtio-queue` parses rings and chains. This module adds what the devices share on top of it: publishing several
//! used buffers at once (a merged receive must appear whole), and the driver's wish to be interrupted or not,
//! both in its flag form and in its event-index form (virtio 1.2 §2.7.7).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;

/// A chain of descriptors that the driver made available.
pub type Chain<'a> = DescriptorChain<&'a GuestRam>;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2 §2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Bytes before the ring in both the available and the used ring: flags and index.
const RING_HEADER: u64 = 4;
/// Size of an element of the used ring in bytes.
const USED_ELEMENT: u64 = 8;

/// What happened to the chain that [`ActiveQueue::drain`] handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Done: give it back, with this many bytes written into its device-writable part.
    Used(u32),
    /// Not now (a rate limit, a full backend): put it back and stop draining.
    Later,
}

/// The rings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueFault {
    /// The rings lie outside guest memory, or the available index ran ahead of the queue.
    #[error("the rings are not valid")]
    Ring(#[source] virtio_queue::Error),
    /// A ring could not be accessed.
    #[error("a ring lies outside guest memory")]
    Memory(#[source] vm_memory::GuestMemoryError),
    /// A ring's address arithmetic overflowed.
    #[error("a ring wraps around the end of the address space")]
    Overflow,
    /// The interrupt could not be raised.
    #[error("cannot interrupt the guest")]
    Interrupt(#[source] std::io::Error),
}

/// A queue from DRIVER_OK to reset. Owned by the device, touched by the event loop only.
pub struct ActiveQueue {
    queue: Queue,
    memory: GuestRam,
    interrupt: Arc<dyn InterruptLine>,
    /// Used index at the last interrupt decision (virtio 1.2 §2.7.7.2).
    signalled: u16,
}

impl ActiveQueue {
    /// Takes over a configured queue. `interrupt` is the device's used-buffer notification.
    pub fn new(queue: Queue, memory: GuestRam, interrupt: Arc<dyn InterruptLine>) -> Self {
        let signalled = queue.next_used();
        Self { queue, memory, interrupt, signalled }
    }

    /// Whether the driver enabled this queue.
    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// The number of descriptors in the queue.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Ring positions and addresses, for a snapshot.
    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Hands every available chain to `handle`, gives it back as `handle` says, and interrupts the driver if it
    /// wants to know. Returns when the queue is empty or `handle` said [`Step::Later`].
    ///
    /// Bounded: handles at most as many chains as were made available, and not more than one ring's worth per
    /// call of the doorbell without looking at the ring index again.
    pub fn drain(&mut self, mut handle: impl FnMut(Chain<'_>) -> Step) -> Result<(), QueueFault> {
        if !self.ready() {
            return Ok(());
        }
        let memory = self.memory.clone();
        loop {
            self.queue.disable_notification(&memory).map_err(QueueFault::Ring)?;
            let mut later = false;
            while let Some(chain) = self.pop(&memory)? {
                let head = chain.head_index();
                match handle(chain) {
                    Step::Used(len) => self.push_used(&[(head, len)])?,
                    Step::Later => {
                        self.undo_pop(1);
                        later = true;
                        break;
                    }
                }
            }
            let more = self.queue.enable_notification(&memory).map_err(QueueFault::Ring)?;
            if later || !more {
                break;
            }
        }
        self.notify()
    }

    /// The next available chain, if there is one. `memory` is a clone of [`memory`](Self::memory), which lets the
    /// chain live while the queue is used.
    pub fn pop<'a>(&mut self, memory: &'a GuestRam) -> Result<Option<Chain<'a>>, QueueFault> {
        Ok(self.queue.iter(memory).map_err(QueueFault::Ring)?.next())
    }

    /// Makes the last `count` popped chains available again.
    pub fn undo_pop(&mut self, count: u16) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
    }

    /// Asks the driver not to ring the doorbell.
    pub fn disable_notification(&mut self) -> Result<(), QueueFault> {
        self.queue.disable_notification(&self.memory).map_err(QueueFault::Ring)
    }

    /// Asks the driver to ring the doorbell again; true when chains are available already.
    pub fn enable_notification(&mut self) -> Result<bool, QueueFault> {
        self.queue.enable_notification(&self.memory).map_err(QueueFault::Ring)
    }

    /// Gives back chains (head index, bytes written), which the driver sees all at once (virtio 1.2 §2.7.8).
    pub fn push_used(&mut self, used: &[(u16, u32)]) -> Result<(), QueueFault> {
        let ring = GuestAddress(self.queue.used_ring());
        let size = self.queue.size();
        let mut next = self.queue.next_used();
        for &(head, len) in used {
            let slot = u64::from(next.checked_rem(size).ok_or(QueueFault::Overflow)?);
            let offset = slot
                .checked_mul(USED_ELEMENT)
                .and_then(|offset| offset.checked_add(RING_HEADER))
                .ok_or(QueueFault::Overflow)?;
            let element = ring.checked_add(offset).ok_or(QueueFault::Overflow)?;
            let value = u64::from(head) | u64::from(len).wrapping_shl(32);
            self.memory.write_obj(value.to_le(), element).map_err(QueueFault::Memory)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        let index = ring.checked_add(2).ok_or(QueueFault::Overflow)?;
        self.memory.store(next.to_le(), index, Ordering::Release).map_err(QueueFault::Memory)
    }

    /// Interrupts the driver if chains were given back since the last call and it wants to know.
    pub fn notify(&mut self) -> Result<(), QueueFault> {
        let next = self.queue.next_used();
        if next == self.signalled {
            return Ok(());
        }
        // The used index must be visible before the driver's wish is read, or both sides may wait for each other.
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.signalled, next);
        if self.wants_interrupt(old, next)? {
            self.interrupt.trigger().map_err(QueueFault::Interrupt)?;
        }
        Ok(())
    }

    fn wants_interrupt(&self, old: u16, next: u16) -> Result<bool, QueueFault> {
        let ring = GuestAddress(self.queue.avail_ring());
        if !self.queue.event_idx_enabled() {
            let flags: u16 = self.memory.load(ring, Ordering::Relaxed).map_err(QueueFault::Memory)?;
            return Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0);
        }
        let offset = u64::from(self.queue.size()).wrapping_mul(2).wrapping_add(RING_HEADER);
        let address = ring.checked_add(offset).ok_or(QueueFault::Overflow)?;
        let event: u16 = self.memory.load(address, Ordering::Relaxed).map_err(QueueFault::Memory)?;
        let event = u16::from_le(event);
        // The driver wants an interrupt when the used index passes `event` (virtio 1.2 §2.7.7.2).
        Ok(next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(old))
    }
}
