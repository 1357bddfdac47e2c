//! A disk between DRIVER_OK and reset: the loop that serves its queue.

use std::sync::Arc;

use super::engine::{Engine, Served, count};
use super::{MAX_TRANSFER, QUEUE_SIZE};
use crate::virtio::queue::{ActiveQueue, QueueFault};

/// Requests served before others get their turn: a ring that its driver refills while it is served.
const TURN_REQUESTS: u32 = 4 * QUEUE_SIZE as u32;
/// Bytes moved before others get their turn.
const TURN_BYTES: u32 = MAX_TRANSFER;

/// From DRIVER_OK to reset.
pub(super) struct Active {
    /// Its memory is shared with every transfer in flight.
    pub(super) queue: ActiveQueue,
}

impl Active {
    /// Serves the queue until it is empty, the turn is over or something must be waited for. Does not interrupt.
    pub(super) fn drain(&mut self, engine: &mut Engine) -> Result<(), QueueFault> {
        let memory = Arc::clone(self.queue.memory());
        let (mut requests, mut bytes) = (TURN_REQUESTS, TURN_BYTES);
        // What is over makes room for what is new.
        self.reap(engine)?;
        loop {
            self.queue.disable_notification()?;
            while let Some(chain) = self.queue.pop(&memory)? {
                if requests == 0 || bytes == 0 {
                    self.queue.undo_pop(1);
                    count(&mut engine.metrics.remaining_reqs_count, 1);
                    self.queue.ring()?;
                    return self.start(engine);
                }
                requests = requests.saturating_sub(1);
                let head = chain.head_index();
                match engine.serve(&memory, chain) {
                    Served::Done { len, weight } => {
                        self.queue.push_used(&[(head, len)])?;
                        bytes = bytes.saturating_sub(weight);
                    }
                    Served::InFlight { weight } => bytes = bytes.saturating_sub(weight),
                    Served::Later => {
                        self.queue.undo_pop(1);
                        return self.start(engine);
                    }
                }
            }
            self.start(engine)?;
            if !self.queue.enable_notification()? {
                return Ok(());
            }
        }
    }

    /// Lets the backend begin with what it was given, and gives back what it has finished at once.
    fn start(&mut self, engine: &mut Engine) -> Result<(), QueueFault> {
        if engine.flights.is_empty() {
            return Ok(());
        }
        if engine.backend.start().is_err() {
            // The kernel is short of memory. Nothing is lost: try again in the next turn.
            self.queue.ring()?;
        }
        self.reap(engine)
    }

    /// Gives back what the backend has finished.
    pub(super) fn reap(&mut self, engine: &mut Engine) -> Result<(), QueueFault> {
        while let Some(used) = engine.reap(self.queue.memory()) {
            self.queue.push_used(&[used])?;
        }
        Ok(())
    }

    /// Waits until nothing is in flight and gives it all back.
    pub(super) fn land(&mut self, engine: &mut Engine) -> Result<(), QueueFault> {
        while !engine.flights.is_empty() {
            engine.backend.wait();
            self.reap(engine)?;
        }
        Ok(())
    }
}
