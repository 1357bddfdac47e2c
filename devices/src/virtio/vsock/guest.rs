//! What a connection does with the guest's packets: from the guest to the socket.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;

use super::connection::{Connection, Stage};
use super::metrics::{VsockMetrics, count};
use super::packet::{Header, op, shutdown};
use super::pieces::Gather;
use super::socket;

/// What becomes of a connection after a packet of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// The guest broke a rule, or the client is gone: reset.
    Reset,
    /// The guest is done with it; it expects a reset to confirm that.
    Finished,
    /// The guest has reset it.
    Gone,
}

impl Connection {
    /// Takes a packet of the guest. `data` is what its header promises, or `None` when that is not there.
    pub(super) fn on_packet(
        &mut self,
        header: &Header,
        data: Option<&Gather<'_>>,
        metrics: &mut VsockMetrics,
    ) -> Verdict {
        self.note_credit(header);
        match (header.op, self.stage) {
            (op::RST, _) => Verdict::Gone,
            (op::RESPONSE, Stage::Requested(true)) => self.accepted(),
            (op::RW, Stage::Open { .. }) => match data {
                Some(data) => self.transmit(data, metrics),
                // Part of the stream is missing.
                None => Verdict::Reset,
            },
            (op::SHUTDOWN, Stage::Open { .. }) => self.shut_down(header.flags),
            (op::CREDIT_REQUEST, Stage::Open { .. }) => {
                self.update_due = true;
                Verdict::Keep
            }
            (op::REQUEST | op::RW | op::SHUTDOWN, _) => Verdict::Reset,
            // Credit needs no more than it was noted. What there may be in newer specifications is not for us.
            _ => Verdict::Keep,
        }
    }

    /// Every packet tells the guest's credit (virtio 1.2 §5.10.6.3).
    fn note_credit(&mut self, header: &Header) {
        let (alloc, forwarded) = (header.buf_alloc, header.fwd_cnt);
        if (alloc, forwarded) != (self.guest_alloc, self.guest_forwarded) {
            (self.guest_alloc, self.guest_forwarded) = (alloc, forwarded);
            self.credit_asked = false;
        }
    }

    fn accepted(&mut self) -> Verdict {
        let line = format!("OK {}\n", self.ports.host);
        // Nothing was written to the socket before, so that this fits unless the client is gone.
        match socket::send(&self.socket, line.as_bytes()) {
            Ok(sent) if sent == line.len() => {
                self.stage = Stage::Open { untold: false };
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    /// Whether the client must take something before the connection goes on.
    pub(super) fn blocked(&self) -> bool {
        !self.kept.is_empty()
    }

    fn transmit(&mut self, data: &Gather<'_>, metrics: &mut VsockMetrics) -> Verdict {
        let room = (self.window as usize).saturating_sub(self.kept.len());
        if self.guest_shutdown & shutdown::SEND != 0 || data.len() > room {
            return Verdict::Reset;
        }
        if self.deaf {
            self.forward(data.len());
            return Verdict::Keep;
        }
        let mut sent = 0;
        if !self.blocked() && data.len() > 0 {
            match socket::send_from(&self.socket, data) {
                Ok(len) => sent = len,
                Err(error) if can_wait(&error) => {}
                Err(_) => {
                    count(&mut metrics.tx_write_fails, 1);
                    self.forward(data.len());
                    self.go_deaf();
                    return Verdict::Keep;
                }
            }
            count(&mut metrics.tx_bytes_count, sent as u64);
            self.forward(sent);
        }
        if sent < data.len() {
            self.kept.reserve_exact(room);
            data.append_to(&mut self.kept, sent);
        }
        Verdict::Keep
    }

    /// The client took `len` bytes.
    fn forward(&mut self, len: usize) {
        self.forwarded = self
            .forwarded
            .wrapping_add(u32::try_from(len).unwrap_or(u32::MAX));
        self.check_update();
    }

    /// The client takes no more: what it did not take is lost, and the guest shall send no more.
    fn go_deaf(&mut self) {
        self.forward(self.kept.len());
        self.drop_kept();
        self.deaf = true;
        self.host_shutdown |= shutdown::RECEIVE;
    }

    fn drop_kept(&mut self) {
        // The memory too: thousands of idle connections cost little.
        self.kept = VecDeque::new();
    }

    /// Writes what is kept, as far as the client takes it. Returns how many bytes that were.
    pub(super) fn flush(&mut self, metrics: &mut VsockMetrics) -> usize {
        let before = self.kept.len();
        while self.blocked() {
            match socket::send(&self.socket, self.kept.as_slices().0) {
                Ok(len) => {
                    self.kept.drain(..len.min(self.kept.len()));
                    self.forward(len);
                    count(&mut metrics.tx_bytes_count, len as u64);
                    if self.kept.is_empty() {
                        self.drop_kept();
                        if self.guest_shutdown & shutdown::SEND != 0 {
                            self.shut_socket(Shutdown::Write);
                        }
                    }
                }
                Err(error) if can_wait(&error) => break,
                Err(_) => {
                    count(&mut metrics.tx_flush_fails, 1);
                    self.go_deaf();
                }
            }
        }
        before.saturating_sub(self.kept.len())
    }

    fn shut_down(&mut self, flags: u32) -> Verdict {
        let new = flags & shutdown::BOTH & !self.guest_shutdown;
        self.guest_shutdown |= new;
        if self.guest_shutdown == shutdown::BOTH {
            return Verdict::Finished;
        }
        if new & shutdown::RECEIVE != 0 {
            self.shut_socket(Shutdown::Read);
        }
        if new & shutdown::SEND != 0 && !self.blocked() {
            self.shut_socket(Shutdown::Write);
        }
        Verdict::Keep
    }

    /// Only what remains for the client matters from now on. False if nothing does.
    pub(super) fn drain(&mut self) -> bool {
        if !self.blocked() || !matches!(self.stage, Stage::Open { .. }) {
            return false;
        }
        self.stage = Stage::Draining;
        self.guest_shutdown = shutdown::BOTH;
        self.shut_socket(Shutdown::Read);
        true
    }

    /// A socket whose other end is gone cannot be shut down, nor needs to be.
    fn shut_socket(&self, how: Shutdown) {
        let _ = self.socket.shutdown(how);
    }
}

/// Whether a write failed for now only.
fn can_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
