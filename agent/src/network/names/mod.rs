//! Questions of a container to a name server on its loopback device: the host answers them.
//!
//! ```text
//!  resolver ──► 127.0.0.11:53 ── nft: dnat ──► 127.0.0.11:PORT ── stream ──► host ──► its 127.0.0.11:53
//! ```
//!
//! An engine that resolves names itself (docker, on networks of its users') does so on the loopback device of the network
//! namespace that it made, which is the host's half of the network; the container's half has a loopback device of its own.
//! Port 53 itself stays free: a name server may be what runs in the container.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use koya_nft::{Protocol, Redirect};
use koya_proto::names::{Name, Transport};
use koya_proto::stream::Token;
use koya_proto::v1::ServeNamesRequest;
use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{inside, namespace_of};
use crate::containers::{Containers, Process};
use crate::error::{Result, deadline as passed, invalid, runtime};
use crate::streams::Event;
use crate::sys::{Deadline, lock, wait_ready};

/// Questions that wait for their answers. The oldest is forgotten for another one: who asked asks again.
const MAX_QUESTIONS: usize = 256;
/// Connections that questions come by. More are closed.
const MAX_CONNECTIONS: usize = 16;
const DNS: u16 = 53;
/// How long the stream may take to come.
const STREAM_TIME: Duration = Duration::from_secs(10);
/// How long a resolver may keep a connection without asking, or without taking an answer, in seconds.
const IDLE_SECONDS: i64 = 10;
/// Its threads keep what they copy on the heap.
const STACK: usize = 128 << 10;

/// Takes questions from now on.
pub fn serve(containers: &Containers, request: &ServeNamesRequest, deadline: Deadline) -> Result<()> {
    let address = address(&request.address)?;
    let token = Token::from_field(&request.stream).map_err(|error| invalid(format!("stream: {error}")))?;
    let token = token.ok_or_else(|| invalid("stream is missing; want a token"))?;
    let ticket = containers.ground().broker.expect(token)?;
    let process = containers.get(&request.id)?.process("")?;
    let namespace = namespace_of(containers, &request.id)?;
    let time = deadline.left().unwrap_or(STREAM_TIME).min(STREAM_TIME);
    let Ok(Event::Connected(stream)) = ticket.receiver().recv_timeout(time) else {
        return Err(passed("the stream for names did not come"));
    };
    let (datagrams, connections) = inside(&namespace, || listen(address))?;
    let server = Arc::new(Server {
        stream: give_up_when_stuck(stream).map_err(runtime("set up the stream for names"))?,
        writing: Mutex::new(()),
        datagrams,
        questions: Mutex::default(),
        connections: AtomicUsize::new(0),
    });
    let answers = Arc::clone(&server);
    spawn("answers", move || answers.answer()).map_err(runtime("start a thread for names"))?;
    let questions = Arc::clone(&server);
    let spawned = spawn("names", move || questions.take(&connections, &process));
    spawned.map_err(|error| {
        server.end();
        runtime("start a thread for names")(error)
    })
}

fn address(text: &str) -> Result<Ipv4Addr> {
    let address: Option<Ipv4Addr> = text.parse().ok();
    let address = address.filter(|address| address.is_loopback() && *address != Ipv4Addr::LOCALHOST);
    address.ok_or_else(|| {
        invalid(format!(
            "address is {text:?}; want one from 127.0.0.2 to 127.255.255.254"
        ))
    })
}

/// Listens somewhere on an address, and has port 53 of it lead there.
fn listen(address: Ipv4Addr) -> Result<(UdpSocket, TcpListener)> {
    let failed = |source| runtime(format!("listen on {address}"))(source);
    let datagrams = UdpSocket::bind((address, 0)).map_err(failed)?;
    let connections = TcpListener::bind((address, 0)).map_err(failed)?;
    connections.set_nonblocking(true).map_err(failed)?;
    let redirect = |protocol, listener: SocketAddr| Redirect {
        address,
        protocol,
        port: Some(DNS),
        to: listener.port(),
    };
    let rules = [
        redirect(Protocol::Udp, datagrams.local_addr().map_err(failed)?),
        redirect(Protocol::Tcp, connections.local_addr().map_err(failed)?),
    ];
    koya_nft::add("names", &rules).map_err(runtime(format!("redirect port {DNS} of {address}")))?;
    Ok((datagrams, connections))
}

/// A host that takes nothing any more has no answers either.
fn give_up_when_stuck(stream: OwnedFd) -> io::Result<File> {
    setsockopt(&stream, sockopt::SendTimeout, &TimeVal::seconds(IDLE_SECONDS))?;
    Ok(File::from(stream))
}

fn spawn(name: &str, function: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    builder.spawn(function).map(drop)
}

/// Who waits for an answer.
enum Asker {
    Datagram(SocketAddr),
    Connection(Arc<TcpStream>),
}

/// The questions of those who wait, oldest first.
#[derive(Default)]
struct Questions {
    next: u32,
    asked: VecDeque<(u32, Asker)>,
}

impl Questions {
    /// The tag of a new one.
    fn add(&mut self, asker: Asker) -> u32 {
        if self.asked.len() >= MAX_QUESTIONS {
            self.asked.pop_front();
        }
        let tag = self.next;
        self.next = tag.wrapping_add(1);
        self.asked.push_back((tag, asker));
        tag
    }

    fn take(&mut self, tag: u32) -> Option<Asker> {
        let at = self.asked.iter().position(|(asked, _)| *asked == tag)?;
        self.asked.remove(at).map(|(_, asker)| asker)
    }
}

/// One container's. As long as a socket of it is open, so is the container's network namespace: all ends with the container.
struct Server {
    stream: File,
    /// Held while something is written to the stream.
    writing: Mutex<()>,
    datagrams: UdpSocket,
    questions: Mutex<Questions>,
    connections: AtomicUsize,
}

impl Server {
    /// Takes questions until the container or the stream ends.
    fn take(self: &Arc<Self>, connections: &TcpListener, process: &Process) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let ready = wait_ready(
                [
                    (self.datagrams.as_fd(), PollFlags::POLLIN),
                    (connections.as_fd(), PollFlags::POLLIN),
                    (process.event(), PollFlags::POLLIN),
                    // Only for its end, which is reported unasked.
                    (self.stream.as_fd(), PollFlags::empty()),
                ],
                None,
            );
            let Ok([datagram, connection, ended, broken]) = ready else {
                break;
            };
            if !ended.is_empty() || !broken.is_empty() {
                break;
            }
            if !datagram.is_empty()
                && let Ok((length, from)) = self.datagrams.recv_from(&mut buffer)
            {
                let message = buffer.get(..length).unwrap_or_default();
                if self.ask(Asker::Datagram(from), message).is_err() {
                    break;
                }
            }
            if !connection.is_empty()
                && let Ok((stream, _)) = connections.accept()
            {
                self.accept(stream);
            }
        }
        self.end();
    }

    fn ask(&self, asker: Asker, message: &[u8]) -> io::Result<()> {
        let transport = match &asker {
            Asker::Datagram(_) => Transport::Udp,
            Asker::Connection(_) => Transport::Tcp,
        };
        let tag = lock(&self.questions).add(asker);
        let name = Name {
            tag,
            transport,
            message: message.to_vec(),
        };
        let bytes = name.encode()?;
        let _whole = lock(&self.writing);
        let sent = (&self.stream).write_all(&bytes);
        if sent.is_err() {
            // Half a question may be on its way: nothing after it would be understood.
            self.end();
        }
        sent
    }

    /// Questions by a connection, in a thread of its own.
    fn accept(self: &Arc<Self>, stream: TcpStream) {
        let guard = Connection::count(Arc::clone(self));
        let time = TimeVal::seconds(IDLE_SECONDS);
        let ready = guard.is_some()
            && stream.set_nonblocking(false).is_ok()
            && setsockopt(&stream, sockopt::ReceiveTimeout, &time).is_ok()
            && setsockopt(&stream, sockopt::SendTimeout, &time).is_ok();
        if ready {
            // Without a thread the connection is closed.
            let _ = spawn("names-tcp", move || {
                let stream = Arc::new(stream);
                while let Some(Connection(server)) = &guard
                    && let Ok(message) = read_message(&stream)
                    && server
                        .ask(Asker::Connection(Arc::clone(&stream)), &message)
                        .is_ok()
                {}
            });
        }
    }

    /// Gives answers to who asked, until the stream ends.
    fn answer(&self) {
        while let Ok(Some(name)) = Name::read(&self.stream) {
            let asker = lock(&self.questions).take(name.tag);
            // Who has gone meanwhile, or takes nothing, misses it.
            let _ = match asker {
                Some(Asker::Datagram(to)) => self.datagrams.send_to(&name.message, to).map(drop),
                Some(Asker::Connection(stream)) => write_message(&stream, &name.message),
                None => Ok(()),
            };
        }
        self.end();
    }

    /// Wakes up whoever reads or writes the stream, and `take`.
    fn end(&self) {
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
    }
}

/// One of a server's connections, as long as it lives.
struct Connection(Arc<Server>);

impl Connection {
    fn count(server: Arc<Server>) -> Option<Self> {
        let before = server.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Self(server);
        (before < MAX_CONNECTIONS).then_some(counted)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A message as it is on a connection, behind its length (RFC 1035 §4.2.2).
fn read_message(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(mut stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_that_is_nobodys_own_is_served() {
        assert_eq!(address("127.0.0.11").unwrap(), Ipv4Addr::new(127, 0, 0, 11));
        for other in ["127.0.0.1", "10.0.0.1", "::1", "", "127.0.0.11:53"] {
            let error = address(other).unwrap_err().to_string();
            assert!(error.contains(&format!("{other:?}")), "{error}");
        }
    }

    #[test]
    fn the_oldest_question_is_forgotten_for_another_one() {
        let mut questions = Questions::default();
        let from = |port| Asker::Datagram(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let first = questions.add(from(1));
        let tags: Vec<u32> = (0..MAX_QUESTIONS).map(|_| questions.add(from(2))).collect();
        assert!(questions.take(first).is_none());
        assert!(matches!(questions.take(tags[0]), Some(Asker::Datagram(to)) if to.port() == 2));
        assert!(questions.take(tags[0]).is_none(), "answered once");
        assert_eq!(questions.asked.len(), MAX_QUESTIONS - 1);
    }
}
