//! One connection: a unix socket on the host, a port on each side, and what both sides know of each other.
//!
//! ```text
//!  Line ──"CONNECT"──► Requested ──RESPONSE──► Open ──guest done──► Draining ──► gone
//!  Dialing ──room in the backlog──────────────► Open
//! ```
//!
//! This half carries from the socket to the guest; [`guest`](super::guest) is the other way.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use event_manager::EventSet;

use super::metrics::{VsockMetrics, count};
use super::packet::{HOST_CID, Header, TYPE_STREAM, op, shutdown};

/// Most bytes of one connection that the guest gets before others have their turn.
pub(super) const BURST_MAX: usize = 64 << 10;
/// Room that is looked for when little is expected: the buffers of Linux are of 4 KiB, header included.
const BURST_MIN: usize = 2 << 10;

/// The ports of a connection, which name it in every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client has not said yet where it wants to be connected to.
    Line,
    /// The guest asked for it, and there is no room in the backlog of the listening socket. Up to a time.
    Dialing(Instant),
    /// The client asked for it, and the guest has not answered; whether it was asked already.
    Requested(bool),
    /// Data flows; whether the guest has yet to be told.
    Open { untold: bool },
    /// The guest is done with it, and the client has not taken everything yet.
    Draining,
}

/// What the guest is to be told next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A packet without data.
    Control { op: u16, flags: u32 },
    /// Data that may wait in the socket, of which the guest takes so many bytes.
    Data { credit: usize },
}

pub(super) struct Connection {
    pub(super) socket: UnixStream,
    pub(super) ports: Ports,
    pub(super) stage: Stage,
    /// By when something must happen. Kept by the hub.
    pub(super) deadline: Option<Instant>,
    /// Whether it waits in the hub's line of those that have news.
    pub(super) queued: bool,
    /// Whether the hub watches when the socket can be written to.
    pub(super) watching_out: bool,

    /// Something may wait in the socket.
    readable: bool,
    /// The client closed its direction; what it sent before may still wait in the socket.
    sends_no_more: bool,
    /// Neither direction of the socket carries anything new any more.
    pub(super) hung_up: bool,
    /// All that the client sent was read.
    ended: bool,
    /// Bytes given to the guest, modulo 2³².
    given: u32,
    /// What the guest can hold, and what it has passed on of `given`.
    pub(super) guest_alloc: u32,
    pub(super) guest_forwarded: u32,
    /// Whether the guest was asked for its credit since that was last heard of.
    pub(super) credit_asked: bool,
    /// Room to look for before the next read.
    pub(super) burst: usize,

    /// Bytes that the guest may send ahead of the client.
    pub(super) window: u32,
    /// Bytes of the guest that the client did not take yet.
    pub(super) kept: VecDeque<u8>,
    /// Bytes that the client took, modulo 2³², and what the guest knows of that.
    pub(super) forwarded: u32,
    forwarded_told: u32,
    /// The guest should hear of `forwarded`.
    pub(super) update_due: bool,
    /// The client takes no more.
    pub(super) deaf: bool,
    /// What the guest has shut down, as it sees it.
    pub(super) guest_shutdown: u32,
    /// What the host has shut down, as the guest sees it once it was told, and what it was told.
    pub(super) host_shutdown: u32,
    pub(super) shutdown_told: u32,
}

impl Connection {
    pub(super) fn new(socket: UnixStream, ports: Ports, stage: Stage, window: u32) -> Self {
        Self {
            socket,
            ports,
            stage,
            deadline: None,
            queued: false,
            watching_out: false,
            readable: true,
            sends_no_more: false,
            hung_up: false,
            ended: false,
            given: 0,
            guest_alloc: 0,
            guest_forwarded: 0,
            credit_asked: false,
            burst: BURST_MIN,
            window,
            kept: VecDeque::new(),
            forwarded: 0,
            forwarded_told: 0,
            update_due: false,
            deaf: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            shutdown_told: 0,
        }
    }

    /// Whether the guest may know this connection, so that it must hear of its end.
    pub(super) fn known(&self) -> bool {
        matches!(
            self.stage,
            Stage::Dialing(_) | Stage::Requested(true) | Stage::Open { .. }
        )
    }

    /// The socket's state changed.
    pub(super) fn on_events(&mut self, events: EventSet) {
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR) {
            self.readable = true;
        }
        if events.contains(EventSet::READ_HANG_UP) {
            self.sends_no_more = true;
        }
        if events.contains(EventSet::HANG_UP) {
            self.hung_up = true;
            if self.ended || self.guest_shutdown & shutdown::RECEIVE != 0 {
                self.end(shutdown::BOTH);
            }
        }
    }

    /// Bytes that the guest can take now.
    fn credit(&self) -> usize {
        let flying = self.given.wrapping_sub(self.guest_forwarded);
        self.guest_alloc.saturating_sub(flying) as usize
    }

    /// What the guest should be told next, most urgent first.
    pub(super) fn news(&self) -> Option<News> {
        let control = |op| Some(News::Control { op, flags: 0 });
        match self.stage {
            Stage::Requested(false) => return control(op::REQUEST),
            Stage::Open { untold: true } => return control(op::RESPONSE),
            Stage::Open { untold: false } => {}
            _ => return None,
        }
        if self.readable && !self.ended && self.guest_shutdown & shutdown::RECEIVE == 0 {
            let credit = self.credit();
            if credit > 0 {
                return Some(News::Data { credit });
            }
            if !self.credit_asked {
                return control(op::CREDIT_REQUEST);
            }
        }
        if self.host_shutdown & !self.shutdown_told != 0 {
            return Some(News::Control {
                op: op::SHUTDOWN,
                flags: self.host_shutdown,
            });
        }
        if self.update_due {
            return control(op::CREDIT_UPDATE);
        }
        None
    }

    /// The guest is told a packet without data: what follows from that, and its header.
    pub(super) fn tell(&mut self, guest_cid: u32, op: u16, flags: u32) -> Header {
        match op {
            op::REQUEST => self.stage = Stage::Requested(true),
            op::RESPONSE => self.stage = Stage::Open { untold: false },
            op::CREDIT_REQUEST => self.credit_asked = true,
            op::SHUTDOWN => self.shutdown_told = flags,
            _ => {}
        }
        self.header(guest_cid, op, flags)
    }

    /// A header of a packet without data, which tells the current credit as all do.
    pub(super) fn header(&mut self, guest_cid: u32, op: u16, flags: u32) -> Header {
        self.forwarded_told = self.forwarded;
        self.update_due = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid.into(),
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len: 0,
            socket_type: TYPE_STREAM,
            op,
            flags,
            buf_alloc: self.window,
            fwd_cnt: self.forwarded,
        }
    }

    /// The socket was read into room for `room` bytes: how many came, and whether that was all there was. Returns how
    /// many are for the guest.
    pub(super) fn on_read(
        &mut self,
        result: io::Result<(usize, bool)>,
        room: usize,
        metrics: &mut VsockMetrics,
    ) -> usize {
        match result {
            Ok((0, _)) => {
                self.end(if self.hung_up {
                    shutdown::BOTH
                } else {
                    shutdown::SEND
                });
                0
            }
            Ok((len, drained)) => {
                self.given = self.given.wrapping_add(u32::try_from(len).unwrap_or(u32::MAX));
                self.burst = if len >= room { BURST_MAX } else { BURST_MIN };
                // The end behind the last byte raises no event of its own once it was told with the bytes.
                self.readable = self.hung_up || self.sends_no_more || !drained;
                len
            }
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    io::ErrorKind::Interrupted => {}
                    // A client that closes without reading everything says so this way.
                    io::ErrorKind::ConnectionReset => self.end(shutdown::BOTH),
                    _ => {
                        count(&mut metrics.rx_read_fails, 1);
                        self.end(shutdown::BOTH);
                    }
                }
                0
            }
        }
    }

    /// The client sends no more, and perhaps takes no more.
    fn end(&mut self, flags: u32) {
        self.ended = true;
        self.readable = false;
        self.host_shutdown |= flags | shutdown::SEND;
    }

    /// Makes the guest hear of what the client took, if it knows too little of that to send on at full speed.
    pub(super) fn check_update(&mut self) {
        if self.forwarded.wrapping_sub(self.forwarded_told) >= self.window / 2 {
            self.update_due = true;
        }
    }
}
