//! A connection, and the calls that share it.
//!
//! ```text
//!  call 1 ── has the turn to write ──► socket
//!  call 2 ── reads ◄────────────────── socket
//!    │ by stream id
//!  call 3, 4, … wait
//! ```
//!
//! No thread belongs to it: one of those who wait for an answer reads, for all
//! of them. When its own has come or its time is up, another one takes over.
//! Where nobody waits nobody reads, so a connection without calls costs nothing;
//! what comes then stays in the socket, until the next call drops it.
//!
//! The other end is not trusted: it can be silent, slow, or say anything. Calls
//! end at their deadlines, whatever it does, and what is kept of what it says
//! is one answer for each call that waits, and one message that is not whole.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::error::ConnectionError;
use super::frame::{self, Inbox};

/// Bytes read at once; answers are hundreds.
const PIECE: usize = 8 << 10;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// None came in time.
    Deadline,
    /// None will come.
    Connection(ConnectionError),
}

/// A connected stream socket.
pub(super) struct Connection {
    socket: OwnedFd,
    state: Mutex<State>,
    /// Told when the turn to write has come free.
    turn: Condvar,
    /// Only who reads has it.
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct State {
    /// By stream id.
    calls: BTreeMap<u32, Call>,
    /// How many calls there have been.
    count: u32,
    /// Somebody reads.
    reading: bool,
    /// Somebody has the turn to write.
    writing: bool,
    /// It is over.
    broken: Option<ConnectionError>,
}

/// A call that waits for its answer.
#[derive(Default)]
struct Call {
    answer: Option<Vec<u8>>,
    /// It is neither writing nor reading.
    waits: bool,
    /// Told when there is an answer, or nobody who reads, or nothing more to wait for.
    news: Arc<Condvar>,
}

impl Connection {
    /// Nobody else may use the socket. It is closed with this.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            state: Mutex::default(),
            turn: Condvar::new(),
            inbox: Mutex::default(),
        }
    }

    /// Sends a request of at most [`frame::MAX_BODY`] bytes and waits for its answer.
    pub fn call(&self, body: &[u8], deadline: Option<Instant>) -> Result<Vec<u8>, Failure> {
        let stream = self.begin(deadline)?;
        let sent = self.send(&frame::request(stream, body), deadline);
        self.end_turn();
        let answer = sent.and_then(|()| self.answer(stream, deadline));
        self.leave(stream);
        answer
    }

    /// Waits for the turn to write; the stream id of the new call.
    fn begin(&self, deadline: Option<Instant>) -> Result<u32, Failure> {
        let mut state = lock(&self.state);
        loop {
            if let Some(error) = &state.broken {
                return Err(Failure::Connection(error.clone()));
            }
            if !state.writing {
                break;
            }
            let left = left(deadline)?;
            state = wait(&self.turn, state, left);
        }
        state.writing = true;
        loop {
            // Odd, as those of a client are. After 2 thousand million calls they begin again.
            let stream = state.count.wrapping_mul(2) | 1;
            state.count = state.count.wrapping_add(1);
            if let Entry::Vacant(place) = state.calls.entry(stream) {
                place.insert(Call::default());
                return Ok(stream);
            }
        }
    }

    fn send(&self, message: &[u8], deadline: Option<Instant>) -> Result<(), Failure> {
        let mut rest = message;
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let ready = self.ready(PollFlags::OUT, deadline);
                    if matches!(ready, Err(Failure::Deadline)) && rest.len() < message.len() {
                        // Nobody could tell any more where the next message begins.
                        self.break_off(ConnectionError::Stuck);
                    }
                    ready?;
                }
                Err(errno) => return Err(Failure::Connection(self.break_off(failed(errno)))),
            }
        }
        Ok(())
    }

    fn end_turn(&self) {
        lock(&self.state).writing = false;
        self.turn.notify_one();
    }

    /// Waits for the answer to a request that has been sent, reading if nobody else does.
    fn answer(&self, stream: u32, deadline: Option<Instant>) -> Result<Vec<u8>, Failure> {
        let mut state = lock(&self.state);
        loop {
            let call = state.calls.entry(stream).or_default();
            if let Some(answer) = call.answer.take() {
                return Ok(answer);
            }
            let news = Arc::clone(&call.news);
            if let Some(error) = &state.broken {
                return Err(Failure::Connection(error.clone()));
            }
            let left = left(deadline)?;
            if state.reading {
                state.calls.entry(stream).or_default().waits = true;
                state = wait(&news, state, left);
                state.calls.entry(stream).or_default().waits = false;
            } else {
                state.reading = true;
                drop(state);
                // Why it failed, the state says, too, or the clock.
                let _ = self.read(deadline);
                state = lock(&self.state);
                state.reading = false;
            }
        }
    }

    /// Forgets a call, and has somebody else read if nobody does.
    fn leave(&self, stream: u32) {
        let mut state = lock(&self.state);
        state.calls.remove(&stream);
        if !state.reading {
            // Who writes will see it without being told.
            let next = state
                .calls
                .values()
                .find(|call| call.waits && call.answer.is_none());
            if let Some(next) = next {
                next.news.notify_one();
            }
        }
    }

    /// Reads once, and hands out what is whole.
    fn read(&self, deadline: Option<Instant>) -> Result<(), Failure> {
        self.ready(PollFlags::IN, deadline)?;
        let mut piece = [0; PIECE];
        let length = match recv(&self.socket, &mut piece, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Failure::Connection(self.break_off(ConnectionError::Closed))),
            Ok((length, _)) => length,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(Failure::Connection(self.break_off(failed(errno)))),
        };
        let mut inbox = lock(&self.inbox);
        inbox.push(piece.get(..length).unwrap_or_default());
        self.hand_out(&mut inbox)
            .map_err(|error| Failure::Connection(self.break_off(error)))
    }

    /// What no call waits for, or no more, is dropped.
    fn hand_out(&self, inbox: &mut Inbox) -> Result<(), ConnectionError> {
        let mut state = lock(&self.state);
        while let Some((stream, body)) = inbox.next()? {
            if let Some(call) = state.calls.get_mut(&stream)
                && call.answer.is_none()
            {
                call.answer = Some(body.to_vec());
                call.news.notify_one();
            }
        }
        Ok(())
    }

    /// Waits until the socket can be read or written, or has failed.
    fn ready(&self, flags: PollFlags, deadline: Option<Instant>) -> Result<(), Failure> {
        loop {
            // Longer than a clock can count is for ever.
            let left = left(deadline)?.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.socket, flags)], left.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Failure::Connection(self.break_off(failed(errno)))),
            }
        }
    }

    /// Ends the connection for everybody; what it failed of first.
    fn break_off(&self, error: ConnectionError) -> ConnectionError {
        let mut state = lock(&self.state);
        let first = state.broken.get_or_insert(error).clone();
        // Fails if the other end has done so. Who writes is woken.
        let _ = shutdown(&self.socket, Shutdown::Both);
        for call in state.calls.values() {
            call.news.notify_one();
        }
        self.turn.notify_all();
        first
    }
}

fn failed(errno: Errno) -> ConnectionError {
    ConnectionError::Socket(Arc::new(io::Error::from(errno)))
}

/// The time left; `None` if there is no end of it.
fn left(deadline: Option<Instant>) -> Result<Option<Duration>, Failure> {
    let Some(deadline) = deadline else {
        return Ok(None);
    };
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Failure::Deadline),
        left => Ok(Some(left)),
    }
}

fn wait<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    left: Option<Duration>,
) -> MutexGuard<'a, State> {
    match left {
        None => condition.wait(state).unwrap_or_else(PoisonError::into_inner),
        Some(left) => {
            let waited = condition.wait_timeout(state, left);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// Nothing that holds one of these panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
