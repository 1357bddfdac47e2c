//! From the host to the guest: whoever has news gets the guest's buffers in turn.

use std::sync::Arc;

use super::hub::{Hub, Speaker};
use super::metrics::count;
use super::room::{Iovecs, Room};
use super::{TURN_BYTES, TURN_PACKETS};
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition};

/// Bytes given to the driver before it is interrupted, if it wants to be, while more follow.
const NOTIFY_BYTES: usize = 1 << 17;

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Something must happen first that raises an event.
    Wait,
    /// Others want their turn.
    More,
}

pub(super) struct Receiver {
    queue: ActiveQueue,
    iovecs: Iovecs,
    /// Whether the driver is asked to ring when it adds buffers.
    doorbell: bool,
}

impl Receiver {
    pub(super) fn new(queue: ActiveQueue) -> Self {
        Self {
            queue,
            iovecs: Iovecs::new(),
            doorbell: true,
        }
    }

    pub(super) fn position(&self) -> QueuePosition {
        self.queue.position()
    }

    /// Makes the event loop come back to this queue.
    pub(super) fn ring(&self) -> Result<(), QueueFault> {
        self.queue.ring()
    }

    /// Gives the guest what there is until something is missing or others want their turn.
    pub(super) fn run(&mut self, hub: &mut Hub) -> Result<(), QueueFault> {
        if !hub.has_news() {
            return Ok(());
        }
        let memory = Arc::clone(self.queue.memory());
        let mut room = Room::new(&memory, TURN_PACKETS);
        let turn = self.give(hub, &mut room);
        count(&mut hub.metrics.rx_queue_event_fails, room.refused());
        self.queue.undo_pop(room.unused());
        // What was given to the driver before a fault is announced all the same.
        self.queue.notify()?;
        if turn? == Turn::More {
            self.queue.ring()?;
        }
        Ok(())
    }

    fn give(&mut self, hub: &mut Hub, room: &mut Room<'_>) -> Result<Turn, QueueFault> {
        let (mut bytes, mut unannounced) = (0usize, 0usize);
        for _ in 0..TURN_PACKETS {
            if !hub.has_news() {
                return Ok(Turn::Wait);
            }
            if bytes >= TURN_BYTES {
                return Ok(Turn::More);
            }
            if !self.provide(room, 1)? {
                return Ok(if room.starved() { Turn::Wait } else { Turn::More });
            }
            let given = match hub.next_speaker() {
                Speaker::Reply(header) => {
                    room.put(&mut self.queue, &header)?;
                    0
                }
                Speaker::Connection(id) => self.speak(hub, id, room)?,
                Speaker::Nobody => 0,
            };
            bytes = bytes.saturating_add(given);
            unannounced = unannounced.saturating_add(given);
            if unannounced >= NOTIFY_BYTES {
                self.queue.notify()?;
                unannounced = 0;
            }
        }
        Ok(Turn::More)
    }

    /// Makes room for `len` bytes, or as much as there is; false if there is none.
    fn provide(&mut self, room: &mut Room<'_>, len: usize) -> Result<bool, QueueFault> {
        loop {
            let some = room.provide(&mut self.queue, len)?;
            if some || !room.starved() {
                if self.doorbell {
                    self.queue.disable_notification()?;
                    self.doorbell = false;
                }
                return Ok(some);
            }
            self.doorbell = true;
            if !self.queue.enable_notification()? {
                return Ok(false);
            }
        }
    }

    /// Gives the guest what one connection has to say next. Returns the bytes of data in it.
    fn speak(&mut self, hub: &mut Hub, id: u64, room: &mut Room<'_>) -> Result<usize, QueueFault> {
        let mut len = 0;
        if let Some(wanted) = hub.wants_room(id) {
            self.provide(room, wanted)?;
            len = hub.read(id, room, &mut self.iovecs);
            if len > 0 {
                let header = hub.data_header(id);
                let packets = room.publish(&mut self.queue, len, &header)?;
                count(&mut hub.metrics.rx_packets_count, packets);
            }
        } else if let Some(header) = hub.control(id) {
            room.put(&mut self.queue, &header)?;
        }
        hub.settle(id);
        Ok(len)
    }
}
