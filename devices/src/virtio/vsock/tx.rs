//! From the guest to the host.

use super::hub::Hub;
use super::packet::op;
use super::pieces::{Malformed, PacketRoom};
use super::{TURN_BYTES, TURN_PACKETS};
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition, Step};

/// How many other packets one takes as long as that makes the host connect to a server.
const REQUEST_COST: u32 = 16;

pub(super) struct Transmitter {
    queue: ActiveQueue,
    room: PacketRoom,
    /// Whether packets wait until the guest has taken the answers to those before.
    held_up: bool,
}

impl Transmitter {
    pub(super) fn new(queue: ActiveQueue) -> Self {
        Self {
            queue,
            room: PacketRoom::new(),
            held_up: false,
        }
    }

    pub(super) fn position(&self) -> QueuePosition {
        self.queue.position()
    }

    /// Makes the event loop come back to this queue.
    pub(super) fn ring(&self) -> Result<(), QueueFault> {
        self.queue.ring()
    }

    /// Takes packets until the queue is empty, answers pile up, or others want their turn.
    pub(super) fn run(&mut self, hub: &mut Hub) -> Result<(), QueueFault> {
        let (mut packets, mut bytes, mut more) = (0u32, 0usize, false);
        let (room, held_up) = (&mut self.room, &mut self.held_up);
        *held_up = false;
        self.queue.drain(|chain| {
            if hub.answers_pile_up() {
                *held_up = true;
                return Step::Later;
            }
            if packets >= TURN_PACKETS || bytes >= TURN_BYTES {
                more = true;
                return Step::Later;
            }
            packets = packets.saturating_add(1);
            match room.load(chain) {
                Ok((header, data)) => {
                    if header.op == op::REQUEST {
                        packets = packets.saturating_add(REQUEST_COST);
                    }
                    bytes = bytes.saturating_add(data.len());
                    hub.take(&header, Some(&data));
                }
                Err(Malformed::Short(header)) => hub.take(&header, None),
                Err(Malformed::Chain) => hub.count_malformed(),
            }
            Step::Used(0)
        })?;
        if more {
            self.queue.ring()?;
        }
        Ok(())
    }

    /// The guest took answers: goes on if that was what packets waited for.
    pub(super) fn resume(&mut self, hub: &Hub) -> Result<(), QueueFault> {
        if self.held_up && !hub.answers_pile_up() {
            self.held_up = false;
            self.queue.ring()?;
        }
        Ok(())
    }
}
