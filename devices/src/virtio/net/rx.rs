//! From the host to the guest.
//!
//! ```text
//!             no frame ─────────────────────────────► wait for the backend
//! read ──► held frame ──► does not fit ─────────────► wait for the doorbell of the receive queue
//!  ▲  ▲       │      └──► over the rate ────────────► wait for the limiter
//!  │  └───────┘ published          no buffer at all ► wait for the doorbell, the frame stays with the host
//!  └─ any of these events
//! ```
//!
//! The backend is watched edge-triggered. So whatever ends a wait reads until there is no frame, and a turn that
//! ends before that rings the queue's own doorbell.

use std::io;

use super::backend::NetBackend;
use super::buffers::{Gathered, ReceiveBuffers};
use super::metrics::{NetMetrics, count};
use super::packet::{FRAME_MAX, PREFIX_LEN};
use super::{NOTIFY_BYTES, NOTIFY_FRAMES, TURN_BYTES, TURN_FRAMES};
use crate::memory::GuestRam;
use crate::rate_limiter::RateLimiter;
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition};

/// What receiving uses of the host.
pub(super) struct Host<'a, B> {
    pub(super) id: &'a str,
    pub(super) backend: &'a mut B,
    pub(super) limiter: &'a mut RateLimiter,
    pub(super) metrics: &'a mut NetMetrics,
    /// Whether the backend's failure has been reported.
    pub(super) reported: &'a mut bool,
}

/// A frame between being read and being given to the driver.
#[derive(Debug, Clone, Copy)]
struct Frame {
    len: usize,
    /// How much of it lies in the guest's buffers already.
    placed: usize,
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Something must happen first that raises an event.
    Wait,
    /// Others want their turn.
    More,
}

enum Delivery {
    Done,
    Wait,
}

pub(super) struct Receiver {
    queue: ActiveQueue,
    buffers: ReceiveBuffers,
    frame: Option<Frame>,
    merge: bool,
    /// Whether the driver accepts flags about checksums.
    checksum: bool,
}

impl Receiver {
    pub(super) fn new(queue: ActiveQueue, memory: GuestRam, merge: bool, checksum: bool) -> Self {
        Self {
            queue,
            buffers: ReceiveBuffers::new(memory, merge),
            frame: None,
            merge,
            checksum,
        }
    }

    /// Where the queue stands, with the held chains still in it.
    pub(super) fn position(&self) -> QueuePosition {
        let position = self.queue.position();
        QueuePosition {
            next_avail: position.next_avail.wrapping_sub(self.buffers.held()),
            ..position
        }
    }

    #[cfg(test)]
    pub(super) fn most_pieces(&self) -> usize {
        self.buffers.most_pieces()
    }

    /// Makes the event loop come back to this queue.
    pub(super) fn ring(&self) -> Result<(), QueueFault> {
        self.queue.ring()
    }

    /// The driver rang: it may have added buffers.
    pub(super) fn on_doorbell(&mut self) -> Result<(), QueueFault> {
        self.buffers.note_peak(&self.queue)
    }

    /// Receives until something is missing or others want their turn.
    pub(super) fn run<B: NetBackend>(&mut self, host: &mut Host<'_, B>) -> Result<(), QueueFault> {
        let turn = self.receive(host);
        count(&mut host.metrics.rx_fails, self.buffers.take_refused());
        // What was given to the driver before a fault is announced all the same.
        self.queue.notify()?;
        if turn? == Turn::More {
            self.queue.ring()?;
        }
        Ok(())
    }

    fn receive<B: NetBackend>(&mut self, host: &mut Host<'_, B>) -> Result<Turn, QueueFault> {
        let (mut bytes, mut unannounced, mut unannounced_bytes) = (0usize, 0u32, 0usize);
        for _ in 0..TURN_FRAMES {
            // A guest that keeps adding useless buffers pays with its own turn, too.
            if bytes >= TURN_BYTES || self.buffers.refused() > self.queue.size().into() {
                return Ok(Turn::More);
            }
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read(host)? {
                    Ok(frame) => frame,
                    Err(turn) => return Ok(turn),
                },
            };
            if let Delivery::Wait = self.deliver(&mut frame, host)? {
                self.frame = Some(frame);
                return Ok(Turn::Wait);
            }
            bytes = bytes.saturating_add(frame.len);
            (unannounced, unannounced_bytes) = (
                unannounced.saturating_add(1),
                unannounced_bytes.saturating_add(frame.len),
            );
            if unannounced >= NOTIFY_FRAMES || unannounced_bytes >= NOTIFY_BYTES {
                self.queue.notify()?;
                (unannounced, unannounced_bytes) = (0, 0);
            }
        }
        Ok(Turn::More)
    }

    /// Reads one frame, if the driver has any buffer and the rate allows.
    fn read<B: NetBackend>(&mut self, host: &mut Host<'_, B>) -> Result<Result<Frame, Turn>, QueueFault> {
        if host.limiter.is_blocked() {
            return Ok(Err(Turn::Wait));
        }
        let gathered = self.buffers.gather(&mut self.queue, FRAME_MAX)?;
        let room = self.buffers.room();
        if room == 0 {
            count(&mut host.metrics.no_rx_avail_buffer, 1);
            return Ok(Err(if gathered == Gathered::Full {
                Turn::More
            } else {
                Turn::Wait
            }));
        }
        let backend = &mut *host.backend;
        match self.buffers.fill(|scatter| backend.receive(scatter)) {
            Ok(len) => {
                count(&mut host.metrics.rx_count, 1);
                Ok(Ok(Frame {
                    len,
                    placed: len.min(room),
                }))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    count(&mut host.metrics.tap_read_fails, 1);
                    if !std::mem::replace(host.reported, true) {
                        log::warn!(
                            "network device `{}` cannot receive from the host: {error}",
                            host.id
                        );
                    }
                }
                Ok(Err(Turn::Wait))
            }
        }
    }

    /// Gives a frame to the driver, or drops one that can never fit.
    fn deliver<B: NetBackend>(
        &mut self,
        frame: &mut Frame,
        host: &mut Host<'_, B>,
    ) -> Result<Delivery, QueueFault> {
        if frame.len < PREFIX_LEN {
            count(&mut host.metrics.rx_dropped, 1);
            return Ok(Delivery::Done);
        }
        if frame.placed < frame.len {
            let gathered = if self.merge {
                self.buffers.gather(&mut self.queue, frame.len)?
            } else {
                Gathered::Full
            };
            if self.buffers.room() >= frame.len {
                self.buffers.unspill(frame.placed, frame.len);
                frame.placed = frame.len;
            } else if gathered == Gathered::Starved && !self.buffers.all_in_hand() {
                count(&mut host.metrics.no_rx_avail_buffer, 1);
                return Ok(Delivery::Wait);
            } else {
                count(&mut host.metrics.rx_dropped, 1);
                return Ok(Delivery::Done);
            }
        }
        if !host.limiter.consume_request(frame.len as u64) {
            count(&mut host.metrics.rx_rate_limiter_throttled, 1);
            return Ok(Delivery::Wait);
        }
        if !self.checksum {
            // No flags for a driver that did not ask for them (virtio 1.2 §5.1.6.4.1).
            self.buffers.write(0, &[0]);
        }
        self.buffers.publish(&mut self.queue, frame.len)?;
        count(&mut host.metrics.rx_packets_count, 1);
        count(&mut host.metrics.rx_bytes_count, frame.len as u64);
        Ok(Delivery::Done)
    }
}
