//! From the guest to the host.

use super::backend::NetBackend;
use super::frame::OutgoingRoom;
use super::metrics::{NetMetrics, count};
use super::packet::{MacAddress, PacketError, Prefix};
use super::rx::Host;
use super::{TURN_BYTES, TURN_FRAMES};
use crate::virtio::queue::{ActiveQueue, Chain, QueueFault, QueuePosition, Step};

pub(super) struct Transmitter {
    queue: ActiveQueue,
    sender: Sender,
}

/// What sending needs beside the queue.
struct Sender {
    room: OutgoingRoom,
    features: u64,
    mac: Option<MacAddress>,
}

impl Transmitter {
    pub(super) fn new(queue: ActiveQueue, features: u64, mac: Option<MacAddress>) -> Self {
        Self {
            queue,
            sender: Sender {
                room: OutgoingRoom::new(),
                features,
                mac,
            },
        }
    }

    pub(super) fn position(&self) -> QueuePosition {
        self.queue.position()
    }

    /// Makes the event loop come back to this queue.
    pub(super) fn ring(&self) -> Result<(), QueueFault> {
        self.queue.ring()
    }

    /// Sends until the queue is empty, the rate is exceeded, or others want their turn.
    pub(super) fn run<B: NetBackend>(&mut self, host: &mut Host<'_, B>) -> Result<(), QueueFault> {
        if host.limiter.is_blocked() {
            return Ok(());
        }
        let (mut frames, mut bytes, mut more) = (0u32, 0usize, false);
        let sender = &mut self.sender;
        self.queue.drain(|chain| {
            if frames >= TURN_FRAMES || bytes >= TURN_BYTES {
                more = true;
                return Step::Later;
            }
            frames = frames.saturating_add(1);
            match sender.send(chain, host) {
                Some(len) => {
                    bytes = bytes.saturating_add(len);
                    Step::Used(0)
                }
                None => Step::Later,
            }
        })?;
        if frames == 0 {
            count(&mut host.metrics.no_tx_avail_buffer, 1);
        }
        if more {
            self.queue.ring()?;
        }
        Ok(())
    }
}

impl Sender {
    /// Sends or drops the frame in a chain and returns how many bytes went out; `None` when it must wait.
    fn send<B: NetBackend>(&mut self, chain: Chain<'_>, host: &mut Host<'_, B>) -> Option<usize> {
        let Ok(mut frame) = self.room.load(chain) else {
            count(&mut host.metrics.tx_fails, 1);
            return Some(0);
        };
        let len = frame.len();
        let checked = frame
            .take_prefix()
            .and_then(|prefix: Prefix| prefix.check(len, self.features, self.mac));
        let prefix = match checked {
            Ok(prefix) => prefix,
            Err(error) => {
                count_refused(host.metrics, error);
                return Some(0);
            }
        };
        if !host.limiter.consume_request(len) {
            count(&mut host.metrics.tx_rate_limiter_throttled, 1);
            return None;
        }
        match frame.send(prefix, |frame| host.backend.send(frame)) {
            Ok(()) => {
                count(&mut host.metrics.tx_count, 1);
                count(&mut host.metrics.tx_packets_count, 1);
                count(&mut host.metrics.tx_bytes_count, len);
            }
            // The kernel knows more protocols than we do and has the last word; a tap that is down refuses all.
            Err(_) => count(&mut host.metrics.tap_write_fails, 1),
        }
        Some(usize::try_from(len).unwrap_or(usize::MAX))
    }
}

fn count_refused(metrics: &mut NetMetrics, error: PacketError) {
    let counter = match error {
        PacketError::Spoofed => &mut metrics.tx_spoofed_mac_count,
        _ => &mut metrics.tx_malformed_frames,
    };
    count(counter, 1);
}
