//! Connections and requests of ttRPC.
//!
//! The `ttrpc` crate has a server, which accepts connections of anybody and
//! starts threads without bound. This one accepts the host's alone, answers
//! nothing before the handshake, and has limits; messages, method table and
//! answers are the crate's.
//!
//! ```text
//!  reader (one per connection) ──► a thread per request ──► writer (one per connection)
//! ```

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use koya_proto::error::{AgentError, ErrorKind};
use koya_proto::v1::{VersionRequest, create_agent};
use koya_proto::{PROTOCOL_MAJOR, SERVICE};
use protobuf::Message;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST};
use ttrpc::{MessageHeader, MethodHandler, Request, Response, TtrpcContext};

use super::Service;
use crate::error::{StartError, limit};
use crate::listener::{Listener, accept_forever};

/// Connections at a time. A host has one or a few per command that it runs.
const MAX_CONNECTIONS: usize = 1024;
/// Requests at a time, over all connections; most of them wait for processes.
const MAX_REQUESTS: usize = 2048;
/// Requests read JSON and format messages; nothing recurses.
const STACK: usize = 256 << 10;

type Methods = HashMap<String, Box<dyn MethodHandler + Send + Sync>>;
type Outgoing = (MessageHeader, Vec<u8>);

struct Server {
    methods: Methods,
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Requests have a channel for being cancelled, which nobody uses.
    never: crossbeam_channel::Receiver<()>,
}

/// Serves in threads of its own.
pub fn serve(listener: Listener, service: Service) -> Result<(), StartError> {
    let server = Arc::new(Server {
        methods: create_agent(Arc::new(service)),
        connections: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
        never: crossbeam_channel::never(),
    });
    let accept = move || {
        accept_forever(&listener, |connection| {
            let server = Arc::clone(&server);
            // Without a thread or a place, the connection is closed.
            if server.connections.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS {
                let connected = Arc::clone(&server);
                let handle = move || {
                    // Ends when the client does.
                    let _ = handle_connection(&connected, connection);
                    connected.connections.fetch_sub(1, Ordering::Relaxed);
                };
                if spawn("connection", handle).is_ok() {
                    return;
                }
            }
            server.connections.fetch_sub(1, Ordering::Relaxed);
        });
    };
    spawn("rpc", accept).map_err(StartError::io("start a thread for requests"))
}

fn spawn(name: &str, function: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(function)
        .map(drop)
}

/// What requests of one connection share.
struct Connection {
    server: Arc<Server>,
    socket: Arc<UnixStream>,
    outgoing: Sender<Outgoing>,
    greeted: AtomicBool,
}

fn handle_connection(server: &Arc<Server>, socket: OwnedFd) -> io::Result<()> {
    // Reading and writing are the same for vsock.
    let socket = Arc::new(UnixStream::from(socket));
    let (outgoing, responses) = channel();
    let writing = Arc::clone(&socket);
    spawn("answers", move || write_responses(&writing, &responses))?;
    let connection = Arc::new(Connection {
        server: Arc::clone(server),
        socket,
        outgoing,
        greeted: AtomicBool::new(false),
    });
    let mut reading = &*connection.socket;
    loop {
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        reading.read_exact(&mut header)?;
        let header = MessageHeader::from(header);
        // A client that says such a length is none.
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > MESSAGE_LENGTH_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        reading.read_exact(&mut body)?;
        if header.type_ == MESSAGE_TYPE_REQUEST {
            connection.dispatch(header, body);
        }
    }
}

fn write_responses(mut socket: &UnixStream, responses: &Receiver<Outgoing>) {
    for (header, body) in responses {
        let mut message = Vec::<u8>::from(header);
        message.extend_from_slice(&body);
        if socket.write_all(&message).is_err() {
            // The reader sees it, too.
            return;
        }
    }
}

impl Connection {
    /// Has a request answered by a thread of its own, or refuses it.
    fn dispatch(self: &Arc<Self>, header: MessageHeader, body: Vec<u8>) {
        let requests = &self.server.requests;
        if requests.fetch_add(1, Ordering::Relaxed) < MAX_REQUESTS {
            let connection = Arc::clone(self);
            let answer = move || {
                connection.answer(header, &body);
                connection.server.requests.fetch_sub(1, Ordering::Relaxed);
            };
            if spawn("request", answer).is_ok() {
                return;
            }
        }
        requests.fetch_sub(1, Ordering::Relaxed);
        self.refuse(
            header,
            &limit(format!(
                "{MAX_REQUESTS} requests are being answered, which is the most"
            )),
        );
    }

    fn answer(&self, header: MessageHeader, body: &[u8]) {
        let Ok(request) = Request::parse_from_bytes(body) else {
            return self.refuse(
                header,
                &crate::error::invalid("the message is not a ttRPC request"),
            );
        };
        if let Err(error) = self.greet(&request) {
            return self.refuse(header, &error);
        }
        let path = format!("/{}/{}", request.service, request.method);
        let Some(method) = self.server.methods.get(&path) else {
            return self.refuse(
                header,
                &crate::error::not_found(format!("no method {path} in this agent")),
            );
        };
        let context = TtrpcContext {
            fd: self.socket.as_raw_fd(),
            cancel_rx: self.server.never.clone(),
            mh: header,
            res_tx: self.outgoing.clone(),
            metadata: HashMap::new(),
            timeout_nano: request.timeout_nano,
        };
        if method.handler(context, request).is_err() {
            // Its payload is no message of this method.
            self.refuse(
                header,
                &crate::error::invalid(format!("the payload is not a request of {path}")),
            );
        }
    }

    /// The handshake comes first; who speaks another version gets no further.
    fn greet(&self, request: &Request) -> Result<(), AgentError> {
        if request.service == SERVICE && request.method == "Version" {
            let fits = VersionRequest::parse_from_bytes(&request.payload)
                .is_ok_and(|version| version.protocol_major == PROTOCOL_MAJOR);
            self.greeted.store(fits, Ordering::Relaxed);
        } else if !self.greeted.load(Ordering::Relaxed) {
            let message = "a connection begins with Version, and with one that fits";
            return Err(AgentError::new(ErrorKind::ERROR_KIND_VERSION, message));
        }
        Ok(())
    }

    fn refuse(&self, header: MessageHeader, error: &AgentError) {
        let mut response = Response::new();
        response.set_status(error.to_status());
        // Fails if the connection has gone.
        let _ = ttrpc::response_to_channel(header.stream_id, response, self.outgoing.clone());
    }
}
