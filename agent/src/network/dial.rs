//! Joins a stream to a TCP port of a container's loopback device.
//!
//! ```text
//!  stream ◄── two threads, one for each direction ──► socket in the container's namespace
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use koya_proto::stream::Token;
use koya_proto::v1::DialRequest;
use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, shutdown};

use super::{inside, namespace_of};
use crate::containers::{Containers, Process};
use crate::error::{Result, deadline as passed, invalid, limit, runtime, state};
use crate::streams::{Event, Ticket};
use crate::sys::{Deadline, wait_ready};

/// Connections at once. More are refused: each has two threads and their buffers.
const MAX_CONNECTIONS: usize = 1024;
/// How long the stream may take to come once the port has answered.
const STREAM_TIME: Duration = Duration::from_secs(10);
/// How long a port may take to answer: it is in the same guest.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const BUFFER: usize = 64 << 10;
/// Its threads keep what they copy on the heap.
const STACK: usize = 128 << 10;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Connects to the port and answers; what follows goes on in threads.
pub fn dial(containers: &Containers, request: &DialRequest, deadline: Deadline) -> Result<()> {
    let port = match u16::try_from(request.port) {
        Ok(port @ 1..) => port,
        _ => return Err(invalid(format!("port is {}; want 1 to 65535", request.port))),
    };
    let token = Token::from_field(&request.stream).map_err(|error| invalid(format!("stream: {error}")))?;
    let token = token.ok_or_else(|| invalid("stream is missing; want a token"))?;
    let connection = Connection::count()?;
    let ticket = containers.ground().broker.expect(token)?;
    let process = containers.get(&request.id)?.process("")?;
    let namespace = namespace_of(containers, &request.id)?;
    let socket = inside(&namespace, || connect(&request.id, port, deadline))?;
    let pair = Arc::new(Pair {
        socket: File::from(OwnedFd::from(socket)),
        process,
        _connection: connection,
    });
    spawn("dial", move || pair.join(&ticket)).map_err(runtime("start a thread for a stream"))
}

fn spawn(name: &str, function: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    builder.spawn(function).map(drop)
}

/// Connects by IPv4, or by IPv6 to who listens only there.
fn connect(id: &str, port: u16, deadline: Deadline) -> Result<TcpStream> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut first = None;
    for address in loopback {
        let time = deadline.left().unwrap_or(CONNECT_TIME).min(CONNECT_TIME);
        if time.is_zero() {
            return Err(passed(format!("the deadline passed before port {port} answered")));
        }
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), time) {
            Ok(stream) => return Ok(stream),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let error = first.unwrap_or_else(|| ErrorKind::NotFound.into());
    Err(match error.kind() {
        ErrorKind::ConnectionRefused => state(format!("nothing listens on port {port} of container '{id}'")),
        _ => runtime(format!("connect to port {port} of container '{id}'"))(error),
    })
}

/// One of all connections, as long as it lives.
struct Connection;

impl Connection {
    fn count() -> Result<Self> {
        let before = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let counted = Self;
        if before >= MAX_CONNECTIONS {
            return Err(limit(format!(
                "{MAX_CONNECTIONS} connections are dialled, which is the most an agent carries"
            )));
        }
        Ok(counted)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The container's end, for both threads.
struct Pair {
    socket: File,
    process: Arc<Process>,
    _connection: Connection,
}

impl Pair {
    /// Waits for the stream and copies both ways. As long as the socket is open, so is the container's namespace: all ends
    /// with the container.
    fn join(self: &Arc<Self>, ticket: &Ticket) {
        let Ok(Event::Connected(stream)) = ticket.receiver().recv_timeout(STREAM_TIME) else {
            return;
        };
        let stream = Arc::new(File::from(stream));
        let (pair, inward) = (Arc::clone(self), Arc::clone(&stream));
        let spawned = spawn("dial-in", move || pair.copy_in(&inward));
        if spawned.is_ok() {
            self.copy_out(&stream);
        }
    }

    /// Up to the stream's end, which the container is told. What the container has sent until it ended is still to be
    /// delivered.
    fn copy_in(&self, stream: &File) {
        let whole = self.copy(stream, &self.socket).is_ok();
        let how = if whole { Shutdown::Write } else { Shutdown::Both };
        let _ = shutdown(self.socket.as_raw_fd(), how);
        if !whole {
            let _ = shutdown(stream.as_raw_fd(), Shutdown::Read);
        }
    }

    /// Up to the container's end of it, which the stream is told. What fails breaks both off.
    fn copy_out(&self, stream: &File) {
        if self.copy(&self.socket, stream).is_ok() {
            let _ = shutdown(stream.as_raw_fd(), Shutdown::Write);
            return;
        }
        for socket in [stream, &self.socket] {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }

    fn copy(&self, mut from: &File, mut to: &File) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let [readable, ended] = wait_ready(
                [
                    (from.as_fd(), PollFlags::POLLIN),
                    (self.process.event(), PollFlags::POLLIN),
                ],
                None,
            )?;
            if readable.is_empty() {
                if ended.is_empty() {
                    continue;
                }
                return Err(ErrorKind::ConnectionAborted.into());
            }
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => to.write_all(buffer.get(..length).unwrap_or_default())?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
