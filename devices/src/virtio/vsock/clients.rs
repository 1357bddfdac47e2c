//! The host's side of the hub: clients that connect, servers that the guest connects to, and deadlines.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use event_manager::EventSet;
use vmm_sys_util::epoll::{ControlOperation, EpollEvent};

use super::connection::{Ports, Stage};
use super::hub::{HOLD, Hub, LISTENER, TIMER};
use super::line::{self, Line};
use super::metrics::count;
use super::packet::Header;
use super::socket;
use super::{DIAL_DEADLINE, LINE_DEADLINE, LINE_MAX, REQUEST_DEADLINE};

/// Events handled before other devices have their turn.
const EVENTS_PER_TURN: usize = 128;
/// Clients let in before other devices have their turn.
const CLIENTS_PER_TURN: usize = 64;
/// How long to wait for room in the backlog of a listening socket, of which nobody tells.
const DIAL_AGAIN: Duration = Duration::from_millis(10);
/// How long to leave clients waiting when the host has no descriptor or memory for them.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);

impl Hub {
    /// Handles what happened to sockets and deadlines. The event loop comes back if there is more.
    pub(super) fn poll(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS_PER_TURN];
        let ready = match self.epoll.wait(0, &mut events) {
            Ok(ready) => ready,
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    count(&mut self.metrics.muxer_event_fails, 1);
                }
                0
            }
        };
        for event in events.iter().take(ready) {
            match event.data() {
                LISTENER => self.accept(),
                TIMER => self.expire(),
                id => self.on_socket(id, EventSet::from_bits_truncate(event.events())),
            }
        }
    }

    /// Makes the timer expire in time. To be called after everything that may have set a deadline.
    pub(super) fn arm(&mut self) {
        if self.deadlines.arm().is_err() {
            count(&mut self.metrics.muxer_event_fails, 1);
        }
    }

    fn on_socket(&mut self, id: u64, events: EventSet) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.on_events(events);
        match connection.stage {
            Stage::Line => {
                let over = events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP);
                self.read_line(id, over);
            }
            // Nobody is left to be connected.
            Stage::Requested(_) if connection.hung_up => self.kill(id),
            Stage::Draining if connection.hung_up => self.remove(id),
            _ => {
                let flushed = connection.flush(&mut self.metrics);
                if flushed > 0 && connection.stage == Stage::Draining {
                    self.give_time_to_drain(id);
                }
                self.settle(id);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..CLIENTS_PER_TURN {
            match self.listener.accept() {
                // One too many: it is closed at once.
                Ok(_) if self.is_full() => {}
                Ok(socket) => {
                    let fd = socket.as_raw_fd();
                    let id = self.add(socket, Ports { host: 0, guest: 0 }, Stage::Line);
                    self.set_deadline(id, LINE_DEADLINE);
                    self.watch(ControlOperation::Add, id, fd, false);
                }
                Err(error) => return self.on_accept_error(&error),
            }
        }
    }

    fn on_accept_error(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
            _ => {
                count(&mut self.metrics.muxer_event_fails, 1);
                let until = Instant::now().checked_add(LISTEN_AGAIN);
                self.deadlines.change(LISTENER, &mut self.listen_again, until);
                self.watch_listener(EventSet::empty());
            }
        }
    }

    /// Lets clients in again.
    pub(super) fn listen(&mut self) {
        if self.listen_again.is_some() {
            self.deadlines.change(LISTENER, &mut self.listen_again, None);
            self.watch_listener(EventSet::IN);
        }
    }

    fn watch_listener(&mut self, events: EventSet) {
        let event = EpollEvent::new(events, LISTENER);
        let fd = self.listener.as_raw_fd();
        if self.epoll.ctl(ControlOperation::Modify, fd, event).is_err() {
            count(&mut self.metrics.muxer_event_fails, 1);
        }
    }

    /// Looks at the line of a client, and takes it once it is whole. What follows it stays in the socket.
    fn read_line(&mut self, id: u64, over: bool) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let mut bytes = [0; LINE_MAX];
        let line = match socket::peek(&connection.socket, &mut bytes) {
            Ok(len) if len > 0 => line::parse(bytes.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Line::Incomplete,
            _ => Line::Wrong,
        };
        match line {
            Line::Connect { port, len } => {
                let taken = bytes.get_mut(..len).unwrap_or_default();
                if socket::receive(&connection.socket, taken).ok() != Some(len) {
                    return self.remove(id);
                }
                let ports = self.free_port(port);
                self.enrol(id, ports);
                self.set_stage(id, Stage::Requested(false));
                self.set_deadline(id, REQUEST_DEADLINE);
                self.settle(id);
            }
            Line::Incomplete if !over => {}
            Line::Incomplete | Line::Wrong => self.remove(id),
        }
    }

    /// The guest wants to be connected to whoever listens for its port.
    pub(super) fn dial(&mut self, header: &Header, ports: Ports) {
        if self.is_full() {
            return self.refuse(header);
        }
        let Ok(socket) = socket::unconnected() else {
            return self.refuse(header);
        };
        let until = Instant::now().checked_add(DIAL_DEADLINE);
        let stage = Stage::Dialing(until.unwrap_or_else(Instant::now));
        let id = self.add(socket, ports, stage);
        self.enrol(id, ports);
        if let Some(connection) = self.connections.get_mut(&id) {
            (connection.guest_alloc, connection.guest_forwarded) = (header.buf_alloc, header.fwd_cnt);
        }
        self.try_dial(id);
    }

    fn try_dial(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let Stage::Dialing(until) = connection.stage else {
            return;
        };
        let path = self.listener.path_of(connection.ports.host);
        match socket::connect(&connection.socket, &path) {
            Ok(()) => {
                let fd = connection.socket.as_raw_fd();
                self.set_stage(id, Stage::Open { untold: true });
                self.watch(ControlOperation::Add, id, fd, false);
                self.settle(id);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                self.set_deadline(id, DIAL_AGAIN);
            }
            Err(_) => self.kill(id),
        }
    }

    fn set_stage(&mut self, id: u64, stage: Stage) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = stage;
        }
    }

    fn set_deadline(&mut self, id: u64, time: Duration) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let until = Instant::now().checked_add(time);
            self.deadlines.change(id, &mut connection.deadline, until);
        }
    }

    fn expire(&mut self) {
        self.deadlines.fired();
        let now = Instant::now();
        while let Some(id) = self.deadlines.expired(now) {
            match id {
                LISTENER => self.listen(),
                HOLD => self.release(),
                _ => self.on_deadline(id),
            }
        }
    }

    fn on_deadline(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.deadline = None;
        match connection.stage {
            Stage::Dialing(_) => self.try_dial(id),
            _ => self.kill(id),
        }
    }
}
