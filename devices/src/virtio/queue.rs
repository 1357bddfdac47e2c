//! A queue while its device is active, and the one loop that drains it.
//!
//! `virtio-queue` parses rings and chains. This module adds what the devices share on top of it: publishing several
//! used buffers at once (a merged receive must appear whole), and the driver's wish to be interrupted or not,
//! both in its flag form and in its event-index form (virtio 1.2 §2.7.7).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;

/// A chain of descriptors that the driver made available.
///
/// It ends by itself where the driver breaks the rules: loops, indices beyond a table, tables outside memory.
/// Yet an indirect table can have 65,535 entries: devices look at no more than [`MAX_DESCRIPTORS`].
pub type Chain<'a> = DescriptorChain<&'a GuestRam>;

/// Descriptors of one chain that a device looks at. A chain must not be longer than its queue (virtio 1.2
/// §2.7.5.3.1), and no device here has queues this long; a hostile one would only cost time.
pub const MAX_DESCRIPTORS: usize = 1024;
/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2 §2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Bytes before the ring in both the available and the used ring: flags and index.
const RING_HEADER: u64 = 4;
/// Size of an element of the used ring in bytes.
const USED_ELEMENT: u64 = 8;

/// How many times its own size [`ActiveQueue::drain`] serves from a queue before it lets others have their turn.
/// A driver that plays fair has at most one ring's worth in flight and refills it while it is served, so four
/// keep a busy queue streaming; a hostile guest that refills the ring from another vCPU for ever gets no more.
const BUDGET_IN_RINGS: u32 = 4;

/// What happened to the chain that [`ActiveQueue::drain`] handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Done: give it back, with this many bytes written into its device-writable part.
    Used(u32),
    /// Not now (a rate limit, a full backend): put it back and stop draining. The device drains again by itself
    /// when what it waits for has come; the driver is not asked to ring meanwhile.
    Later,
}

/// How far [`ActiveQueue::drain`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is available any more; the driver's next doorbell starts over.
    Empty,
    /// The handler said [`Step::Later`].
    Later,
    /// The budget of one call is used up. The queue has rung its own doorbell to go on later.
    More,
}

/// Where a queue stands: what a snapshot keeps beside the queue's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Index of the next available entry to take.
    pub next_avail: u16,
    /// Index of the next used entry to fill.
    pub next_used: u16,
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
    Interrupt(#[source] io::Error),
    /// The queue could not ring its own doorbell.
    #[error("cannot signal the queue's own doorbell")]
    Doorbell(#[source] io::Error),
}

/// A queue from DRIVER_OK to reset. Owned by the device, touched by the event loop only.
pub struct ActiveQueue {
    queue: Queue,
    memory: GuestRam,
    interrupt: Arc<dyn InterruptLine>,
    doorbell: Arc<EventFd>,
    /// Used index at the last interrupt decision (virtio 1.2 §2.7.7.2).
    signalled: u16,
}

impl ActiveQueue {
    /// Takes over a configured queue. `interrupt` is the device's used-buffer notification, `doorbell` the
    /// event that the driver's doorbell signals.
    pub fn new(
        queue: Queue,
        memory: GuestRam,
        interrupt: Arc<dyn InterruptLine>,
        doorbell: Arc<EventFd>,
    ) -> Self {
        let signalled = queue.next_used();
        Self {
            queue,
            memory,
            interrupt,
            doorbell,
            signalled,
        }
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

    /// Ring positions and addresses.
    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Where the queue stands, for a snapshot.
    pub fn position(&self) -> QueuePosition {
        QueuePosition {
            next_avail: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Hands every available chain to `handle`, gives it back as `handle` says, and interrupts the driver if it
    /// wants to know.
    ///
    /// Bounded: serves at most four ring sizes of chains per call, however fast the guest adds
    /// new ones; see [`Drained::More`].
    pub fn drain(&mut self, mut handle: impl FnMut(Chain<'_>) -> Step) -> Result<Drained, QueueFault> {
        if !self.ready() {
            return Ok(Drained::Empty);
        }
        let drained = self.serve(&mut handle);
        // What was given back before a fault is announced all the same.
        let notified = self.notify();
        let drained = drained?;
        notified?;
        if drained == Drained::More {
            self.ring()?;
        }
        Ok(drained)
    }

    fn serve(&mut self, handle: &mut impl FnMut(Chain<'_>) -> Step) -> Result<Drained, QueueFault> {
        let mut budget = u32::from(self.size()).saturating_mul(BUDGET_IN_RINGS);
        loop {
            self.disable_notification()?;
            while let Some(chain) = pop(&mut self.queue, &self.memory)? {
                if budget == 0 {
                    self.undo_pop(1);
                    return Ok(Drained::More);
                }
                budget = budget.saturating_sub(1);
                let head = chain.head_index();
                match handle(chain) {
                    Step::Used(len) => self.push_used(&[(head, len)])?,
                    Step::Later => {
                        self.undo_pop(1);
                        return Ok(Drained::Later);
                    }
                }
            }
            if !self.enable_notification()? {
                return Ok(Drained::Empty);
            }
        }
    }

    /// Rings this queue's own doorbell: its device is called again in its turn.
    ///
    /// For devices that use [`pop`](Self::pop) and must stop early; [`drain`](Self::drain) does it by itself.
    pub fn ring(&self) -> Result<(), QueueFault> {
        match self.doorbell.write(1) {
            // A counter that is full rings as well.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result.map_err(QueueFault::Doorbell),
        }
    }

    /// The next available chain, if there is one. `memory` is a clone of [`memory`](Self::memory), which lets the
    /// chain live while the queue is used.
    pub fn pop<'a>(&mut self, memory: &'a GuestRam) -> Result<Option<Chain<'a>>, QueueFault> {
        pop(&mut self.queue, memory)
    }

    /// Makes the last `count` popped chains available again.
    pub fn undo_pop(&mut self, count: u16) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
    }

    /// Asks the driver not to ring the doorbell.
    pub fn disable_notification(&mut self) -> Result<(), QueueFault> {
        self.queue
            .disable_notification(&self.memory)
            .map_err(QueueFault::Ring)
    }

    /// Asks the driver to ring the doorbell again; true when chains are available already.
    pub fn enable_notification(&mut self) -> Result<bool, QueueFault> {
        self.queue
            .enable_notification(&self.memory)
            .map_err(QueueFault::Ring)
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
            self.memory
                .write_obj(value.to_le(), element)
                .map_err(QueueFault::Memory)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        let index = ring.checked_add(2).ok_or(QueueFault::Overflow)?;
        self.memory
            .store(next.to_le(), index, Ordering::Release)
            .map_err(QueueFault::Memory)
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
            let flags: u16 = self
                .memory
                .load(ring, Ordering::Relaxed)
                .map_err(QueueFault::Memory)?;
            return Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0);
        }
        let offset = u64::from(self.queue.size())
            .wrapping_mul(2)
            .wrapping_add(RING_HEADER);
        let address = ring.checked_add(offset).ok_or(QueueFault::Overflow)?;
        let event: u16 = self
            .memory
            .load(address, Ordering::Relaxed)
            .map_err(QueueFault::Memory)?;
        let event = u16::from_le(event);
        // The driver wants an interrupt when the used index passes `event` (virtio 1.2 §2.7.7.2).
        Ok(next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(old))
    }
}

fn pop<'a>(queue: &mut Queue, memory: &'a GuestRam) -> Result<Option<Chain<'a>>, QueueFault> {
    Ok(queue.iter(memory).map_err(QueueFault::Ring)?.next())
}

#[cfg(test)]
mod tests;
