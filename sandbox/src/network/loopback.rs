//! The loopback device of a namespace that was taken over: who connects to 127.0.0.1 there means the guest's.
//!
//! ```text
//!  program ─► 127.0.0.1:PORT ─ nft: dnat ─► this process ═ stream over vsock ═► agent ─► 127.0.0.1:PORT
//!  on the host, in the namespace                                                         of the container
//! ```
//!
//! Kubernetes forwards ports so (`kubectl port-forward`), and so does whoever enters a container's namespace to look at a
//! server. Frames do not come this way: nobody but programs of the namespace can send something to its loopback device.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use koya_nft::{Protocol, Redirect};
use koya_proto::client::AgentClient;
use koya_proto::v1::DialRequest;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::stdio;

/// Threads at once: 256 connections, each with two of them here, and two in the guest. More are refused.
const MAX_THREADS: usize = 512;
/// When a program that says nothing any more is asked whether it is still there: one that has gone holds nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// Enough to copy in.
const STACK: usize = 64 << 10;
/// Connections that wait to be taken.
const BACKLOG: i32 = 64;
/// Until another try, when the host has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// The chain of the rule, see [`koya_nft`].
const CHAIN: &str = "loopback";

/// Where connections arrive.
#[derive(Debug)]
pub struct Loopback(TcpListener);

/// Whose loopback device is meant.
#[derive(Clone)]
pub struct Guest {
    /// The microVM's socket for streams.
    pub vsock: PathBuf,
    /// Its agent.
    pub agent: AgentClient,
    /// The container.
    pub id: String,
}

impl Loopback {
    /// Takes all TCP connections to 127.0.0.1 that are made in this thread's network namespace from now on, until
    /// [`give_back`](super::takeover::give_back). Its loopback device need not be up yet.
    ///
    /// # Errors
    /// The kernel's; it needs the module `nft_nat`. Then nothing is taken.
    pub fn take() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_ip_freebind(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        listen(&socket, BACKLOG)?;
        let listener = TcpListener::from(socket);
        let redirect = Redirect {
            address: Ipv4Addr::LOCALHOST,
            protocol: Protocol::Tcp,
            port: None,
            to: listener.local_addr()?.port(),
        };
        // One that a process before this one made leads to nobody any more.
        koya_nft::replace(CHAIN, &[redirect])?;
        Ok(Self(listener))
    }

    /// Joins each connection to the guest's port of the same number. Does not return.
    pub fn serve(self, guest: Guest) {
        let guest = Arc::new(guest);
        for connection in self.0.incoming() {
            let Ok(connection) = connection else {
                thread::sleep(PAUSE);
                continue;
            };
            // Both threads of each connection have a copy of it as long as they live.
            if Arc::strong_count(&guest) > MAX_THREADS {
                refuse(&connection);
                continue;
            }
            let guest = Arc::clone(&guest);
            let work = move || {
                let Ok(stream) = guest.dial(&connection) else {
                    return refuse(&connection);
                };
                join(&guest, connection, stream);
            };
            // Whoever gets no thread sees his connection end.
            let _ = spawn(work);
        }
    }
}

impl Guest {
    /// A stream to the port that a connection was made to.
    fn dial(&self, connection: &TcpStream) -> io::Result<UnixStream> {
        let meant = sockopt::ip_original_dst(connection)?;
        sockopt::set_socket_keepalive(connection, true)?;
        sockopt::set_tcp_keepidle(connection, SILENCE)?;
        let mut request = DialRequest {
            id: self.id.clone(),
            port: meant.port().into(),
            ..Default::default()
        };
        let stream = stdio::connect(&self.vsock, &mut request.stream)?;
        self.agent.dial(&request).map_err(io::Error::other)?;
        Ok(stream)
    }
}

/// Ends a connection as one to a port where nobody listens ends: reset, not closed.
fn refuse(connection: &TcpStream) {
    let _ = sockopt::set_socket_linger(connection, Some(Duration::ZERO));
}

/// Copies both ways, until both sides have ended.
fn join(guest: &Arc<Guest>, connection: TcpStream, stream: UnixStream) {
    let (connection, stream) = (Arc::new(connection), Arc::new(stream));
    let (there, here, counted) = (Arc::clone(&stream), Arc::clone(&connection), Arc::clone(guest));
    let inward = move || {
        match io::copy(&mut &*here, &mut &*there) {
            Ok(_) => drop(there.shutdown(Shutdown::Write)),
            Err(_) => end(&here, &there),
        }
        drop(counted);
    };
    if spawn(inward).is_err() {
        return refuse(&connection);
    }
    match io::copy(&mut &*stream, &mut &*connection) {
        Ok(_) => drop(connection.shutdown(Shutdown::Write)),
        Err(_) => end(&connection, &stream),
    }
}

/// What fails in one direction breaks off the other.
fn end(connection: &TcpStream, stream: &UnixStream) {
    let _ = connection.shutdown(Shutdown::Both);
    let _ = stream.shutdown(Shutdown::Both);
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new()
        .name("loopback".to_owned())
        .stack_size(STACK);
    builder.spawn(work).map(drop)
}
