//! A queue while its device is active, and the one loop that drains it.
//!
//! `virtio-queue` keeps what the driver configured, and checks it. Reading and writing the rings is done here: at
//! places looked up once, with several used buffers published at once (a merged receive must appear whole), and with
//! the driver's wish to be interrupted or not, both in its flag form and in its event-index form (virtio 1.2 §2.7.7).

mod chain;
mod memory;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

pub use self::chain::{Chain, MAX_DESCRIPTORS};
use self::memory::Place;
pub use self::memory::{QueueMemory, RamSlice};
use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2 §2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY (virtio 1.2 §2.7.10).
const USED_F_NO_NOTIFY: u16 = 1;
/// Offsets in both the available and the used ring: flags, index, and the elements.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ELEMENTS: usize = 4;
/// Size of an element of the available ring and of the used ring in bytes.
const AVAIL_ELEMENT: usize = 2;
const USED_ELEMENT: usize = 8;

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
    /// The driver made more available than its queue holds.
    #[error("the available index runs {ahead} entries ahead of the device, in a queue of {size}")]
    Index {
        /// How far ahead.
        ahead: u16,
        /// The size of the queue.
        size: u16,
    },
    /// A ring could not be accessed.
    #[error("a ring does not lie in one region of guest memory")]
    Memory,
    /// The driver did not enable the queue.
    #[error("the queue is not enabled")]
    Disabled,
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
    memory: Arc<QueueMemory>,
    rings: Option<Rings>,
    interrupt: Arc<dyn InterruptLine>,
    doorbell: Arc<EventFd>,
    /// The driver's available index, as it was at the last look.
    available: u16,
    /// Used index at the last interrupt decision (virtio 1.2 §2.7.7.2).
    signalled: u16,
}

/// A queue that another process serves.
pub struct HandedOver<'a> {
    /// The descriptor table.
    pub descriptors: GuestAddress,
    /// The available ring.
    pub available: GuestAddress,
    /// The used ring.
    pub used: GuestAddress,
    /// Index of the next available entry to take.
    pub next_available: u16,
    /// Signalled by the driver's doorbell.
    pub doorbell: &'a EventFd,
    /// Raises the driver's interrupt when it is signalled.
    pub interrupt: &'a EventFd,
}

/// Where an enabled queue's rings lie.
struct Rings {
    avail: Place,
    used: Place,
}

impl ActiveQueue {
    /// Takes over a configured queue. `interrupt` is the device's used-buffer notification, `doorbell` the
    /// event that the driver's doorbell signals.
    ///
    /// Fails if the queue is enabled and its descriptor table or one of its rings does not lie in one region of
    /// `memory`.
    pub fn new(
        queue: Queue,
        memory: GuestRam,
        interrupt: Arc<dyn InterruptLine>,
        doorbell: Arc<EventFd>,
    ) -> Result<Self, QueueFault> {
        let mut memory = QueueMemory::new(memory);
        let mut rings = None;
        if queue.ready() {
            let size = usize::from(queue.size());
            // Behind the elements lies the other side's event index.
            let len = |element| size.saturating_mul(element).saturating_add(ELEMENTS + 2);
            memory = memory.with_table(queue.desc_table(), queue.size())?;
            rings = Some(Rings {
                avail: memory.place(queue.avail_ring(), len(AVAIL_ELEMENT))?,
                used: memory.place(queue.used_ring(), len(USED_ELEMENT))?,
            });
        }
        Ok(Self {
            memory: Arc::new(memory),
            rings,
            interrupt,
            doorbell,
            available: queue.next_avail(),
            signalled: queue.next_used(),
            queue,
        })
    }

    /// Whether the driver enabled this queue.
    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// The number of descriptors in the queue.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The guest's memory, with this queue's chains in it: a clone of it lets a [popped](Self::pop) chain live while
    /// the queue is used.
    pub fn memory(&self) -> &Arc<QueueMemory> {
        &self.memory
    }

    /// What another process needs to serve this queue by itself, once it is [ready](Self::ready). `None` if the
    /// interrupt cannot be raised by another process.
    pub fn hand_over(&self) -> Option<HandedOver<'_>> {
        Some(HandedOver {
            descriptors: GuestAddress(self.queue.desc_table()),
            available: GuestAddress(self.queue.avail_ring()),
            used: GuestAddress(self.queue.used_ring()),
            next_available: self.queue.next_avail(),
            doorbell: &self.doorbell,
            interrupt: self.interrupt.hand_over()?,
        })
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
        let memory = Arc::clone(&self.memory);
        let mut budget = u32::from(self.size()).saturating_mul(BUDGET_IN_RINGS);
        loop {
            self.disable_notification()?;
            while let Some(chain) = self.pop(&memory)? {
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

    /// The next available chain, if there is one. `memory` is a clone of [`memory`](Self::memory).
    pub fn pop<'a>(&mut self, memory: &'a QueueMemory) -> Result<Option<Chain<'a>>, QueueFault> {
        let next = self.queue.next_avail();
        if self.available == next {
            self.available = self.look()?;
        }
        if self.available == next {
            return Ok(None);
        }
        let offset = self.element(next, AVAIL_ELEMENT);
        let head = self.rings()?.avail.load(offset, Ordering::Relaxed)?;
        self.queue.set_next_avail(next.wrapping_add(1));
        Ok(Chain::new(memory, head))
    }

    /// The driver's available index; what it counts can be read then (virtio 1.2 §2.7.13.1).
    fn look(&self) -> Result<u16, QueueFault> {
        let available = self.rings()?.avail.load(INDEX, Ordering::Acquire)?;
        let (ahead, size) = (available.wrapping_sub(self.queue.next_avail()), self.size());
        // A driver that claims more than there can be would have the same entries served again and again.
        if ahead > size {
            return Err(QueueFault::Index { ahead, size });
        }
        Ok(available)
    }

    /// Chains that the driver made available and that were not given back: at most the size of the queue.
    pub fn outstanding(&self) -> Result<u16, QueueFault> {
        let available = self.rings()?.avail.load(INDEX, Ordering::Relaxed)?;
        Ok(available.wrapping_sub(self.queue.next_used()).min(self.size()))
    }

    fn rings(&self) -> Result<&Rings, QueueFault> {
        match &self.rings {
            Some(rings) => Ok(rings),
            None => Err(QueueFault::Disabled),
        }
    }

    /// Offset of the ring element that `index` counts.
    fn element(&self, index: u16, len: usize) -> usize {
        // The size is a power of two.
        let slot = index & self.size().wrapping_sub(1);
        usize::from(slot).wrapping_mul(len).wrapping_add(ELEMENTS)
    }

    /// Offset of what lies behind the elements of a ring.
    fn behind(&self, element: usize) -> usize {
        usize::from(self.size())
            .wrapping_mul(element)
            .wrapping_add(ELEMENTS)
    }

    /// Makes the last `count` popped chains available again.
    pub fn undo_pop(&mut self, count: u16) {
        self.queue
            .set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Asks the driver not to ring the doorbell.
    pub fn disable_notification(&mut self) -> Result<(), QueueFault> {
        if self.queue.event_idx_enabled() {
            // A driver rings once for each index it was asked for, which the device has passed.
            return Ok(());
        }
        self.rings()?
            .used
            .store(FLAGS, USED_F_NO_NOTIFY, Ordering::Relaxed)
    }

    /// Asks the driver to ring the doorbell again; true when chains are available already.
    pub fn enable_notification(&mut self) -> Result<bool, QueueFault> {
        let Rings { avail, used } = self.rings()?;
        let next = self.queue.next_avail();
        if self.queue.event_idx_enabled() {
            used.store(self.behind(USED_ELEMENT), next, Ordering::Relaxed)?;
        } else {
            used.store(FLAGS, 0, Ordering::Relaxed)?;
        }
        // The driver must see the wish before we look for the last time, or both sides may wait for each other.
        fence(Ordering::SeqCst);
        Ok(avail.load(INDEX, Ordering::Relaxed)? != next)
    }

    /// Asks the driver to ring the doorbell for the next chain that it adds, though there may be others that nobody has
    /// taken. To be called before what makes it add one.
    pub fn await_more(&mut self) -> Result<(), QueueFault> {
        let Rings { avail, used } = self.rings()?;
        if self.queue.event_idx_enabled() {
            let added: u16 = avail.load(INDEX, Ordering::Relaxed)?;
            used.store(self.behind(USED_ELEMENT), added, Ordering::Relaxed)?;
        } else {
            used.store(FLAGS, 0, Ordering::Relaxed)?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Gives back chains (head index, bytes written), which the driver sees all at once (virtio 1.2 §2.7.8).
    pub fn push_used(&mut self, used: &[(u16, u32)]) -> Result<(), QueueFault> {
        let ring = &self.rings()?.used;
        let mut next = self.queue.next_used();
        for &(head, len) in used {
            let element = u64::from(head) | u64::from(len).wrapping_shl(32);
            ring.write(self.element(next, USED_ELEMENT), element)?;
            next = next.wrapping_add(1);
        }
        ring.store(INDEX, next, Ordering::Release)?;
        self.queue.set_next_used(next);
        Ok(())
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
        let avail = &self.rings()?.avail;
        if !self.queue.event_idx_enabled() {
            return Ok(avail.load(FLAGS, Ordering::Relaxed)? & AVAIL_F_NO_INTERRUPT == 0);
        }
        let event = avail.load(self.behind(AVAIL_ELEMENT), Ordering::Relaxed)?;
        // The driver wants an interrupt when the used index passes `event` (virtio 1.2 §2.7.7.2).
        Ok(next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(old))
    }
}

#[cfg(test)]
mod tests;
