//! One client's connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use event_manager::EventSet;

use super::{Limits, not_now};
use crate::action::ActionHandler;
use crate::endpoints;
use crate::http::{Connection, ConnectionLimits};

/// Bytes read at a time.
const READ_SIZE: usize = 8 << 10;
/// Turns one connection gets before others and the devices do.
const TURNS: usize = 16;
/// Bytes thrown away of what a client still sends after its connection has been refused.
const LINGER_BYTES: usize = 1 << 20;

/// What the server does next with a connection.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Wait for events; with it, which ones if they have changed.
    Wait(Option<EventSet>),
    /// Close it.
    End,
}

/// What [`Peer::check_deadline`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// There is time.
    Met,
    /// The connection has to end.
    Passed,
    /// The client has been told; that has to be sent.
    Answered,
}

/// A connection and its socket.
#[derive(Debug)]
pub(super) struct Peer {
    stream: UnixStream,
    http: Connection,
    /// The events waited for.
    interest: EventSet,
    /// The client sends no more.
    eof: bool,
    /// We send no more: what still comes is counted down from [`LINGER_BYTES`] and thrown away.
    lingering: Option<usize>,
    deadline: Option<Instant>,
    last_used: Instant,
    unfinished: Duration,
    linger: Duration,
}

impl Peer {
    /// A new connection, whose socket is nonblocking and watched for [`EventSet::IN`].
    pub fn new(stream: UnixStream, limits: &Limits, now: Instant) -> Self {
        let http_limits = ConnectionLimits {
            payload: limits.payload,
            ..ConnectionLimits::default()
        };
        Self {
            stream,
            http: Connection::new(http_limits),
            interest: EventSet::IN,
            eof: false,
            lingering: None,
            deadline: None,
            last_used: now,
            unfinished: limits.unfinished,
            linger: limits.linger,
        }
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub fn has_deadline(&self) -> bool {
        self.deadline.is_some()
    }

    /// Orders connections by how little they are missed, least first; `None` for one that is busy.
    pub fn idle_rank(&self) -> Option<(bool, Instant)> {
        let ending = self.lingering.is_some();
        (ending || self.http.is_idle()).then_some((!ending, self.last_used))
    }

    /// Reads, answers and writes as far as possible. With `hung_up`, the client is gone.
    pub fn advance(&mut self, handler: &mut impl ActionHandler, hung_up: bool) -> Verdict {
        let mut answered = false;
        let mut more = true;
        for _ in 0..TURNS {
            match self.turn(handler) {
                Ok(Turn::Answered) => answered = true,
                Ok(Turn::Received) => {}
                Ok(Turn::Nothing) => {
                    more = false;
                    break;
                }
                Err(_) => return Verdict::End,
            }
        }
        if !more && (hung_up || self.is_done()) {
            return Verdict::End;
        }
        self.set_deadline(answered);
        // With turns used up there may be whole requests in memory, of which no event would tell.
        let wants_out = !self.http.output().is_empty() || more;
        let wants_in = !self.eof && (self.lingering.is_some() || self.http.wants_input());
        let mut interest = EventSet::empty();
        interest.set(EventSet::OUT, wants_out);
        interest.set(EventSet::IN, wants_in);
        let changed = interest != self.interest;
        self.interest = interest;
        Verdict::Wait(changed.then_some(interest))
    }

    /// Answers what has been read, or else reads more.
    fn turn(&mut self, handler: &mut impl ActionHandler) -> io::Result<Turn> {
        let mut answered = false;
        while let Some(request) = self.http.next_request() {
            self.http.respond(&endpoints::answer(&request, handler));
            answered = true;
        }
        self.send()?;
        if answered {
            return Ok(Turn::Answered);
        }
        if self.lingering.is_none() && self.http.is_closing() && self.http.output().is_empty() {
            // Closing at once would make the client's next write fail before it has read the answer.
            self.stream.shutdown(Shutdown::Write)?;
            self.lingering = Some(LINGER_BYTES);
        }
        self.read()
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.http.output().is_empty() {
            match self.stream.write(self.http.output()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.http.advance(count),
                Err(err) if not_now(&err) => break,
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<Turn> {
        if self.eof || !(self.lingering.is_some() || self.http.wants_input()) {
            return Ok(Turn::Nothing);
        }
        let mut buffer = [0; READ_SIZE];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.eof = true;
                Ok(Turn::Nothing)
            }
            Ok(count) => {
                match &mut self.lingering {
                    Some(left) => *left = left.checked_sub(count).ok_or(io::ErrorKind::FileTooLarge)?,
                    None => self.http.receive(buffer.get(..count).unwrap_or_default()),
                }
                Ok(Turn::Received)
            }
            Err(err) if not_now(&err) => Ok(Turn::Nothing),
            Err(err) => Err(err),
        }
    }

    /// Whether nothing can come of this connection any more.
    fn is_done(&self) -> bool {
        self.eof && self.http.output().is_empty()
    }

    fn set_deadline(&mut self, answered: bool) {
        if self.http.is_idle() {
            if answered {
                self.last_used = Instant::now();
            }
            self.deadline = None;
        } else if self.lingering.is_some() {
            self.limit_to(self.linger);
        } else if answered || self.deadline.is_none() {
            self.deadline = Instant::now().checked_add(self.unfinished);
        }
    }

    /// Moves the deadline forward to `time` from now, never backward.
    fn limit_to(&mut self, time: Duration) {
        let limit = Instant::now().checked_add(time);
        self.deadline = match (self.deadline, limit) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
    }

    /// Looks whether the time is up.
    pub fn check_deadline(&mut self, now: Instant) -> Deadline {
        match self.deadline {
            Some(deadline) if deadline <= now => {}
            _ => return Deadline::Met,
        }
        if self.http.is_closing() || !self.http.has_partial_request() {
            return Deadline::Passed;
        }
        self.http.time_out();
        self.deadline = None;
        Deadline::Answered
    }
}

/// What one turn of a connection did.
enum Turn {
    Answered,
    Received,
    Nothing,
}
