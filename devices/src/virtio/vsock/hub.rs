//! All connections of a device: which there are, which of them have something to say, and by when.
//!
//! What sockets do is handled in [`clients`](super::clients); here is what concerns the guest, and what both share.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use event_manager::EventSet;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use super::connection::{BURST_MAX, Connection, News, Ports, Stage};
use super::deadlines::Deadlines;
use super::guest::Verdict;
use super::metrics::{VsockMetrics, count};
use super::packet::{HOST_CID, Header, TYPE_STREAM, op, shutdown};
use super::pieces::Gather;
use super::room::{Iovecs, Room};
use super::socket::{self, Listener};
use super::{CLOSE_DEADLINE, CONNECTIONS_MAX, DRAIN_DEADLINE, NARROW_WINDOW, WIDE_WINDOWS, WINDOW};

/// What an event of the epoll descriptor is about: one of these, or a connection by its id.
pub(super) const LISTENER: u64 = 0;
pub(super) const TIMER: u64 = 1;
/// The deadline until which the guest is told nothing; see [`Hub::hold`].
pub(super) const HOLD: u64 = 2;
const FIRST_ID: u64 = 3;

/// Answers to packets of no connection that wait for the guest's buffers. With more, its packets wait.
const REPLIES_MAX: usize = 1024;
/// The first port on the host's side of connections that clients ask for. Firecracker's range: up to 2³¹.
const FIRST_PORT: u32 = 1 << 30;

/// Who says something next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    /// An answer that belongs to no connection.
    Reply(Header),
    /// The connection with this id.
    Connection(u64),
    /// Nobody has anything to say after all.
    Nobody,
}

pub(super) struct Hub {
    pub(super) guest_cid: u32,
    pub(super) metrics: VsockMetrics,
    pub(super) listener: Listener,
    pub(super) epoll: Epoll,
    pub(super) deadlines: Deadlines,
    pub(super) connections: HashMap<u64, Connection>,
    by_ports: HashMap<Ports, u64>,
    /// Connections with something to say, each at most once, and some that are gone.
    speakers: VecDeque<u64>,
    replies: VecDeque<Header>,
    next_id: u64,
    last_port: u32,
    wide_windows: usize,
    /// Until when the listening socket is left alone.
    pub(super) listen_again: Option<Instant>,
    /// Until when the guest is told nothing.
    held: Option<Instant>,
}

impl Hub {
    pub(super) fn new(guest_cid: u32, listener: Listener) -> io::Result<Self> {
        let hub = Self {
            guest_cid,
            metrics: VsockMetrics::default(),
            listener,
            epoll: Epoll::new()?,
            deadlines: Deadlines::new()?,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            speakers: VecDeque::new(),
            replies: VecDeque::new(),
            next_id: FIRST_ID,
            last_port: FIRST_PORT - 1,
            wide_windows: 0,
            listen_again: None,
            held: None,
        };
        let watch = |fd, events, id| {
            hub.epoll
                .ctl(ControlOperation::Add, fd, EpollEvent::new(events, id))
        };
        watch(hub.listener.as_raw_fd(), EventSet::IN, LISTENER)?;
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        watch(hub.deadlines.fd(), edge, TIMER)?;
        Ok(hub)
    }

    /// What the event loop watches.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    pub(super) fn path(&self) -> &Path {
        self.listener.path()
    }

    /// Closes all connections.
    pub(super) fn clear(&mut self) {
        count(&mut self.metrics.conns_removed, self.by_ports.len() as u64);
        self.connections.clear();
        self.by_ports.clear();
        self.speakers.clear();
        self.replies.clear();
        self.deadlines.clear();
        self.wide_windows = 0;
        self.held = None;
        self.listen();
    }

    /// Tells the guest nothing until [`release`](Self::release), at most for `time`.
    pub(super) fn hold(&mut self, time: Duration) {
        let until = Instant::now().checked_add(time);
        self.deadlines.change(HOLD, &mut self.held, until);
    }

    pub(super) fn release(&mut self) {
        self.deadlines.change(HOLD, &mut self.held, None);
    }

    // What the guest is told.

    pub(super) fn has_news(&self) -> bool {
        self.held.is_none() && !(self.speakers.is_empty() && self.replies.is_empty())
    }

    pub(super) fn next_speaker(&mut self) -> Speaker {
        if let Some(header) = self.replies.pop_front() {
            count(&mut self.metrics.rx_packets_count, 1);
            return Speaker::Reply(header);
        }
        while let Some(id) = self.speakers.pop_front() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.queued = false;
                return Speaker::Connection(id);
            }
        }
        Speaker::Nobody
    }

    /// How much room a connection wants for data that it may have.
    pub(super) fn wants_room(&self, id: u64) -> Option<usize> {
        let connection = self.connections.get(&id)?;
        match connection.news()? {
            News::Data { credit } => Some(credit.min(connection.burst)),
            News::Control { .. } => None,
        }
    }

    /// The packet without data that a connection has for the guest.
    pub(super) fn control(&mut self, id: u64) -> Option<Header> {
        let connection = self.connections.get_mut(&id)?;
        let Some(News::Control { op, flags }) = connection.news() else {
            return None;
        };
        count(&mut self.metrics.rx_packets_count, 1);
        let header = connection.tell(self.guest_cid, op, flags);
        if connection.shutdown_told == shutdown::BOTH {
            let until = Instant::now().checked_add(CLOSE_DEADLINE);
            self.deadlines.change(id, &mut connection.deadline, until);
        }
        Some(header)
    }

    /// Reads data of a connection into `room`; returns how many bytes it was.
    pub(super) fn read(&mut self, id: u64, room: &Room<'_>, iovecs: &mut Iovecs) -> usize {
        let Some(connection) = self.connections.get_mut(&id) else {
            return 0;
        };
        let Some(News::Data { credit }) = connection.news() else {
            return 0;
        };
        let mut space = 0;
        let result = room.fill(credit.min(BURST_MAX), iovecs, |into| {
            space = into.len();
            socket::receive_into(&connection.socket, into)
        });
        let len = connection.on_read(result, space, &mut self.metrics);
        count(&mut self.metrics.rx_bytes_count, len as u64);
        len
    }

    /// What the headers of packets with data of a connection have in common.
    pub(super) fn data_header(&mut self, id: u64) -> Header {
        match self.connections.get_mut(&id) {
            Some(connection) => connection.header(self.guest_cid, op::RW, 0),
            None => Header::default(),
        }
    }

    // What the guest says.

    pub(super) fn count_malformed(&mut self) {
        count(&mut self.metrics.tx_queue_event_fails, 1);
    }

    /// Whether the guest has to take answers before it says more.
    pub(super) fn answers_pile_up(&self) -> bool {
        self.replies.len() >= REPLIES_MAX
    }

    /// Takes a packet of the guest. `data` is what its header promises, or `None` when that is not there.
    pub(super) fn take(&mut self, header: &Header, data: Option<&Gather<'_>>) {
        count(&mut self.metrics.tx_packets_count, 1);
        if data.is_none() {
            self.count_malformed();
        }
        // Not from the guest: an answer would not reach whoever it says it is from.
        if header.src_cid != u64::from(self.guest_cid) {
            return;
        }
        if header.socket_type != TYPE_STREAM || header.dst_cid != HOST_CID {
            return self.refuse(header);
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let Some(&id) = self.by_ports.get(&ports) else {
            if header.op == op::REQUEST {
                self.dial(header, ports);
            } else {
                self.refuse(header);
            }
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let requested = matches!(connection.stage, Stage::Requested(_));
        let verdict = connection.on_packet(header, data, &mut self.metrics);
        match verdict {
            Verdict::Keep => {
                if requested && !matches!(connection.stage, Stage::Requested(_)) {
                    self.deadlines.change(id, &mut connection.deadline, None);
                }
                self.settle(id);
            }
            Verdict::Reset => self.kill(id),
            Verdict::Finished => self.finish(id, true),
            Verdict::Gone => self.finish(id, false),
        }
    }

    /// Answers a packet that belongs to no connection.
    pub(super) fn refuse(&mut self, header: &Header) {
        self.replies.extend(header.refusal());
    }

    /// The guest is done with a connection; its client may still have to take something.
    fn finish(&mut self, id: u64, reset: bool) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if reset {
            let header = connection.header(self.guest_cid, op::RST, 0);
            self.replies.push_back(header);
        }
        let ports = connection.ports;
        if connection.drain() {
            self.by_ports.remove(&ports);
            self.give_time_to_drain(id);
            self.settle(id);
        } else {
            self.remove(id);
        }
    }

    pub(super) fn give_time_to_drain(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let until = Instant::now().checked_add(DRAIN_DEADLINE);
            self.deadlines.change(id, &mut connection.deadline, until);
        }
    }

    // What both sides share.

    pub(super) fn is_full(&self) -> bool {
        self.connections.len() >= CONNECTIONS_MAX
    }

    /// Adds a connection and returns its id.
    pub(super) fn add(&mut self, socket: UnixStream, ports: Ports, stage: Stage) -> u64 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.connections
            .insert(id, Connection::new(socket, ports, stage, 0));
        id
    }

    /// A connection is known by its ports from now on.
    pub(super) fn enrol(&mut self, id: u64, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.ports = ports;
        connection.window = NARROW_WINDOW;
        if self.wide_windows < WIDE_WINDOWS {
            self.wide_windows = self.wide_windows.saturating_add(1);
            connection.window = WINDOW;
        }
        self.by_ports.insert(ports, id);
        count(&mut self.metrics.conns_added, 1);
    }

    /// A port of the host's side for a client that wants to be connected to `guest`.
    pub(super) fn free_port(&mut self, guest: u32) -> Ports {
        loop {
            self.last_port = (self.last_port.wrapping_add(1) & (u32::MAX >> 1)) | FIRST_PORT;
            let ports = Ports {
                host: self.last_port,
                guest,
            };
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Ends a connection that cannot go on, and tells the guest.
    pub(super) fn kill(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.known() {
            let header = connection.header(self.guest_cid, op::RST, 0);
            self.replies.push_back(header);
            count(&mut self.metrics.conns_killed, 1);
        }
        self.remove(id);
    }

    /// Forgets a connection and closes its socket.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        self.deadlines.change(id, &mut connection.deadline, None);
        if self.by_ports.get(&connection.ports) == Some(&id) {
            self.by_ports.remove(&connection.ports);
        }
        if connection.stage != Stage::Line {
            count(&mut self.metrics.conns_removed, 1);
        }
        if connection.window == WINDOW {
            self.wide_windows = self.wide_windows.saturating_sub(1);
        }
        // Those that are gone leave the line when they are due. Not so while the guest takes nothing.
        if self.speakers.len() > 2 * CONNECTIONS_MAX {
            let connections = &self.connections;
            self.speakers.retain(|id| connections.contains_key(id));
        }
    }

    /// Draws the consequences of whatever happened to a connection.
    pub(super) fn settle(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !connection.queued && connection.news().is_some() {
            connection.queued = true;
            self.speakers.push_back(id);
        }
        if connection.stage == Stage::Draining && !connection.blocked() {
            return self.remove(id);
        }
        if connection.blocked() != connection.watching_out {
            connection.watching_out = connection.blocked();
            let (fd, out) = (connection.socket.as_raw_fd(), connection.watching_out);
            self.watch(ControlOperation::Modify, id, fd, out);
        }
    }

    /// Watches a connection's socket, edge-triggered: each event says that something changed.
    pub(super) fn watch(&mut self, operation: ControlOperation, id: u64, fd: RawFd, out: bool) {
        let mut events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        events.set(EventSet::OUT, out);
        let result = self.epoll.ctl(operation, fd, EpollEvent::new(events, id));
        if result.is_err() {
            count(&mut self.metrics.conn_event_fails, 1);
            self.kill(id);
        }
    }
}
