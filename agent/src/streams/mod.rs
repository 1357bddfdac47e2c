//! Streams of processes: connections of their own, joined to processes by
//! tokens.
//!
//! ```text
//!  connection ── header ──► Broker ── token ──► Ticket of a request ──► pump thread ◄──► pipe or terminal
//! ```

mod broker;
mod console;
mod pump;
mod stdio;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use koya_proto::stream::{self, HEADER_LEN};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

pub use broker::{Broker, Event, Ticket};
pub use console::Console;
pub use stdio::{ChildEnds, Size, Stdio, Streams};

use crate::error::StartError;
use crate::listener::{Listener, accept_forever};

/// Connections that have not been joined to a process yet. More are closed.
const MAX_UNJOINED: usize = 1024;
/// How long a connection may take to send its header.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Threads here copy or wait; what they copy is on the heap.
const STACK: usize = 128 << 10;

/// Accepts streams in a thread of its own.
pub fn serve(listener: Listener, broker: Arc<Broker>) -> Result<(), StartError> {
    let unjoined = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        accept_forever(&listener, |connection| {
            let guard = Counted::new(&unjoined);
            let broker = Arc::clone(&broker);
            if guard.count > MAX_UNJOINED {
                return;
            }
            // Without a thread there is no stream: the connection is closed.
            let _ = spawn("stream", move || {
                let _guard = guard;
                join(connection, &broker);
            });
        });
    };
    spawn("streams", accept).map_err(StartError::io("start a thread for streams"))
}

/// Starts a thread with a small stack.
fn spawn(name: &str, function: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(function)
        .map(drop)
}

/// Reads the header and hands the connection to whoever waits for its token.
fn join(connection: OwnedFd, broker: &Broker) {
    let seconds = i64::try_from(HEADER_TIME.as_secs()).unwrap_or_default();
    if setsockopt(&connection, sockopt::ReceiveTimeout, &TimeVal::seconds(seconds)).is_err() {
        return;
    }
    let mut header = [0; HEADER_LEN];
    let mut file = File::from(connection);
    if file.read_exact(&mut header).is_err() {
        return;
    }
    let connection = OwnedFd::from(file);
    if setsockopt(&connection, sockopt::ReceiveTimeout, &TimeVal::seconds(0)).is_err() {
        return;
    }
    if let Ok(token) = stream::decode(&header) {
        broker.deliver(token, connection);
    }
}

/// One of a number of things, as long as it lives.
struct Counted {
    counter: Arc<AtomicUsize>,
    /// How many there were with it.
    count: usize,
}

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        let count = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let counter = Arc::clone(counter);
        Self { counter, count }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}
