//! The API's server: a unix socket and its connections, as one subscriber of the VMM's event loop.
//!
//! Nothing here blocks and nothing has a thread of its own. A request is handled where it is read, so requests are
//! handled one after the other, also across connections. What a client can hold on to is bounded:
//!
//! | resource | limit | what happens then |
//! |---|---|---|
//! | connections | [`Limits::connections`] | the one idle for longest is closed; if all are busy, the new one gets a 503 |
//! | an unfinished request, unread answers | [`Limits::unfinished`] | a 408, or the end of the connection |
//! | bytes of a request | [`crate::http::MAX_HEAD_BYTES`], [`Limits::payload`] | a 400, then the connection ends |
//! | bytes of unread answers | 64 KiB | no further request is read |
//!
//! A connection without a request under way may stay as long as it likes: SDKs keep one open for the life of a microVM.

mod bind;
mod peer;
mod timer;

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

pub use bind::BindError;
use bind::SocketFile;
use peer::{Peer, Verdict};
use timer::Timer;

use crate::action::ActionHandler;
use crate::error::Fault;
use crate::http::{Connection, ConnectionLimits, DEFAULT_PAYLOAD_LIMIT, Status};

/// How many connections one event accepts at most; the others wait for the next round of the event loop.
const ACCEPTS_PER_EVENT: usize = 16;

/// What clients may ask of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest body of a request, in bytes.
    pub payload: usize,
    /// Most connections at one time. Firecracker has ten; a handful of tools on one microVM stay far below 64.
    pub connections: usize,
    /// How long a request may take to arrive, and an answer to be read.
    pub unfinished: Duration,
    /// How long a client whose connection is ending may take to hang up.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload: DEFAULT_PAYLOAD_LIMIT,
            connections: 64,
            unfinished: Duration::from_secs(60),
            linger: Duration::from_secs(2),
        }
    }
}

/// The server. Add it to an [`event_manager::EventManager`]; dropping it removes the socket's file.
#[derive(Debug)]
pub struct ApiServer<H> {
    listener: UnixListener,
    _file: SocketFile,
    limits: Limits,
    peers: Vec<Peer>,
    timer: Timer,
    /// No connection can be accepted for want of a resource, until the timer's next tick.
    accepting: bool,
    handler: H,
}

impl<H: ActionHandler> ApiServer<H> {
    /// Creates the socket at `path` and listens on it. The file's mode follows the umask.
    ///
    /// # Errors
    /// [`BindError`], naming the path and what would be right.
    pub fn bind(path: &Path, limits: Limits, handler: H) -> Result<Self, BindError> {
        let timer = Timer::new().map_err(|source| BindError::Other {
            path: path.into(),
            source,
        })?;
        let (listener, file) = SocketFile::bind(path)?;
        Ok(Self {
            listener,
            _file: file,
            limits,
            peers: Vec::new(),
            timer,
            accepting: true,
            handler,
        })
    }

    /// Whoever handles the actions.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        for _ in 0..ACCEPTS_PER_EVENT {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, ops),
                Err(err) if err.kind() == ErrorKind::WouldBlock => return,
                Err(err) if matches!(err.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // Out of descriptors or memory. The waiting client keeps the listener readable, so without this the
                // event loop would spin.
                Err(_) if self.evict(ops) => {}
                Err(_) => {
                    self.accepting = false;
                    let _ = ops.modify(Events::empty(&self.listener));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, ops: &mut EventOps<'_>) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.peers.len() >= self.limits.connections && !self.evict(ops) {
            let message = format!(
                "Too many open connections: all {} are busy. Close one, or try again later.",
                self.limits.connections
            );
            let mut full = Connection::new(ConnectionLimits::default());
            full.refuse(&Fault::with_status(Status::ServiceUnavailable, message));
            // An empty socket has room for this; if not, the client sees the end of the connection.
            let _ = stream.write(full.output());
            return;
        }
        if ops.add(Events::new(&stream, EventSet::IN)).is_ok() {
            self.peers.push(Peer::new(stream, &self.limits, Instant::now()));
        }
    }

    /// Ends the connection that is missed least: one that is ending anyway, or else the one idle for longest.
    fn evict(&mut self, ops: &mut EventOps<'_>) -> bool {
        let candidates = self
            .peers
            .iter()
            .enumerate()
            .filter_map(|(index, peer)| Some((peer.idle_rank()?, index)));
        match candidates.min() {
            Some((_, index)) => {
                self.end(index, ops);
                true
            }
            None => false,
        }
    }

    fn end(&mut self, index: usize, ops: &mut EventOps<'_>) {
        if index < self.peers.len() {
            let peer = self.peers.swap_remove(index);
            let _ = ops.remove(Events::empty(peer.stream()));
        }
    }

    /// Lets a connection go on as far as it can.
    fn serve(&mut self, index: usize, hung_up: bool, ops: &mut EventOps<'_>) {
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        let verdict = peer.advance(&mut self.handler, hung_up);
        let keep = match verdict {
            Verdict::End => false,
            Verdict::Wait(None) => true,
            Verdict::Wait(Some(interest)) => ops.modify(Events::new(peer.stream(), interest)).is_ok(),
        };
        if !keep {
            self.end(index, ops);
        }
    }

    /// Ends what has taken too long, and tries again to accept.
    fn tick(&mut self, ops: &mut EventOps<'_>) {
        self.timer.acknowledge();
        let now = Instant::now();
        // From the end, because ending one moves the last into its place.
        for index in (0..self.peers.len()).rev() {
            match self.peers.get_mut(index).map(|peer| peer.check_deadline(now)) {
                Some(peer::Deadline::Passed) => self.end(index, ops),
                Some(peer::Deadline::Answered) => self.serve(index, false, ops),
                _ => {}
            }
        }
        if !self.accepting {
            self.accepting = ops.modify(Events::new(&self.listener, EventSet::IN)).is_ok();
        }
    }

    fn update_timer(&mut self) {
        let needed = !self.accepting || self.peers.iter().any(Peer::has_deadline);
        let patience = self.limits.unfinished.min(self.limits.linger);
        self.timer.set(needed, patience);
    }

    fn index_of(&self, fd: RawFd) -> Option<usize> {
        self.peers.iter().position(|peer| peer.stream().as_raw_fd() == fd)
    }
}

impl<H: ActionHandler> MutEventSubscriber for ApiServer<H> {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if fd == self.listener.as_raw_fd() {
            self.accept(ops);
        } else if fd == self.timer.as_raw_fd() {
            self.tick(ops);
        } else if let Some(index) = self.index_of(fd) {
            let hung_up = events.event_set().intersects(EventSet::HANG_UP | EventSet::ERROR);
            self.serve(index, hung_up, ops);
        } else {
            // Not ours, so there is no use in hearing of it again.
            let _ = ops.remove(events);
        }
        self.update_timer();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let listening = ops.add(Events::new(&self.listener, EventSet::IN));
        let ticking = ops.add(Events::new(&self.timer, EventSet::IN));
        // The event loop gives no way to report this. Both descriptors are fresh, so it takes a host out of memory.
        debug_assert!(listening.is_ok() && ticking.is_ok(), "{listening:?} {ticking:?}");
    }
}

/// Whether a result of a nonblocking call says "not now".
fn not_now(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
