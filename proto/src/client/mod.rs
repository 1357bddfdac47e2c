//! A client of the agent, over any connected socket.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::os::unix::net::UnixStream;
//! # let config = Vec::new();
//! // With hybrid vsock: connected, "CONNECT 900\n" sent, "OK …\n" read.
//! let stream = UnixStream::connect("/run/web/rpc.sock")?;
//! let agent = koya_proto::client::connect(stream)?;
//! agent.create(koya_proto::v1::CreateRequest { id: "web".into(), config, ..Default::default() })?;
//! agent.start("web")?;
//! let exit = agent.wait(&"web".into(), None)?;
//! # Ok(()) }
//! ```
//!
//! Calls block; a client is shared and cloned freely between threads, and
//! calls of several threads go over the one connection at the same time. The
//! connection is closed with the last clone. A client starts no threads, and does
//! nothing while nobody calls.

mod connection;
mod error;
mod frame;
mod network;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protobuf::Message;

pub use error::{ClientError, ConnectionError};

use crate::error::{AgentError, ErrorKind};
use crate::generated::envelope::{Request, Response};
use crate::v1;
use crate::{PROTOCOL_MAJOR, PROTOCOL_MINOR, SERVICE};
use connection::{Connection, Failure};

/// Deadline of a call unless [`AgentClient::with_deadline`] says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A process: a container's first one, or one that was started by `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The container's id.
    pub container: String,
    /// The process's id in it; empty for the first process.
    pub exec: String,
}

impl ProcessId {
    /// A process that was started by `exec`.
    pub fn exec(container: impl Into<String>, exec: impl Into<String>) -> Self {
        let (container, exec) = (container.into(), exec.into());
        Self { container, exec }
    }
}

impl From<&str> for ProcessId {
    fn from(container: &str) -> Self {
        Self::exec(container, "")
    }
}

/// A connection to an agent whose version fits.
#[derive(Clone)]
pub struct AgentClient {
    connection: Arc<Connection>,
    version: v1::VersionResponse,
    deadline: Duration,
}

/// Shakes hands with the agent at the other end of a connected stream socket.
///
/// # Errors
/// An agent of another major version refuses with [`ErrorKind::ERROR_KIND_VERSION`]
/// and both numbers; whatever does not speak ttRPC ends in
/// [`ClientError::Connection`] or, if it is silent, [`ClientError::Deadline`].
pub fn connect(socket: impl Into<OwnedFd>) -> Result<AgentClient, ClientError> {
    connect_as(socket, PROTOCOL_MAJOR, PROTOCOL_MINOR, DEADLINE)
}

/// [`connect`] within a time, and as a client of any version.
///
/// # Errors
/// As [`connect`].
pub fn connect_as(
    socket: impl Into<OwnedFd>,
    major: u32,
    minor: u32,
    deadline: Duration,
) -> Result<AgentClient, ClientError> {
    let mut client = AgentClient {
        connection: Arc::new(Connection::new(socket.into())),
        version: v1::VersionResponse::default(),
        deadline,
    };
    let request = v1::VersionRequest {
        protocol_major: major,
        protocol_minor: minor,
        ..Default::default()
    };
    client.version = client.call("Version", &request)?;
    let theirs = client.version.protocol_major;
    if theirs != major {
        let message =
            format!("the agent speaks version {theirs} of the protocol; this client speaks {major}");
        return Err(AgentError::new(ErrorKind::ERROR_KIND_VERSION, message).into());
    }
    client.deadline = DEADLINE;
    Ok(client)
}

impl AgentClient {
    /// The same connection with another deadline for each call but `wait`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What the agent said when they shook hands.
    #[must_use]
    pub fn version(&self) -> &v1::VersionResponse {
        &self.version
    }

    /// Is the agent well?
    ///
    /// # Errors
    /// [`ClientError`], as with every call below.
    pub fn health(&self) -> Result<v1::HealthResponse, ClientError> {
        self.call("Health", &v1::HealthRequest::new())
    }

    /// Kernel, processors and memory of the guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn details(&self) -> Result<v1::DetailsResponse, ClientError> {
        self.call("Details", &v1::DetailsRequest::new())
    }

    /// Sets the guest's wall clock.
    ///
    /// # Errors
    /// A time before 1970 is [`ErrorKind::ERROR_KIND_INVALID`].
    pub fn set_clock(&self, now: SystemTime) -> Result<(), ClientError> {
        let since = now.duration_since(UNIX_EPOCH).map_err(|_| {
            AgentError::new(
                ErrorKind::ERROR_KIND_INVALID,
                "a wall clock is set to 1970 or later",
            )
        })?;
        let request = v1::SetClockRequest {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
            ..Default::default()
        };
        self.tell("SetClock", &request)
    }

    /// Renews the kernel's random generator; `entropy` has 32 to 512 bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn reseed(&self, entropy: &[u8]) -> Result<(), ClientError> {
        let request = v1::ReseedRequest {
            entropy: entropy.to_vec(),
            ..Default::default()
        };
        self.tell("Reseed", &request)
    }

    /// Has the guest power off or reboot; it goes down after the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn shutdown(&self, kind: v1::ShutdownKind) -> Result<(), ClientError> {
        let request = v1::ShutdownRequest {
            kind: kind.into(),
            ..Default::default()
        };
        self.tell("Shutdown", &request)
    }

    /// Creates a container: everything but running its first process. Answers
    /// the pid.
    ///
    /// # Errors
    /// Besides others [`ErrorKind::ERROR_KIND_EXECUTABLE_MISSING`] and
    /// [`ErrorKind::ERROR_KIND_NOT_EXECUTABLE`]; nothing of the container is left then.
    pub fn create(&self, request: v1::CreateRequest) -> Result<u32, ClientError> {
        let response: v1::CreateResponse = self.call("Create", &request)?;
        Ok(response.pid)
    }

    /// Runs the first process of a created container.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STATE`] unless it is created and not started.
    pub fn start(&self, id: &str) -> Result<(), ClientError> {
        let request = v1::StartRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.tell("Start", &request)
    }

    /// The state of a container.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_NOT_FOUND`].
    pub fn state(&self, id: &str) -> Result<v1::ContainerState, ClientError> {
        let request = v1::StateRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.call("State", &request)
    }

    /// The states of all containers, by id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn list(&self) -> Result<Vec<v1::ContainerState>, ClientError> {
        let request = v1::ListRequest::new();
        let response: v1::ListResponse = self.call("List", &request)?;
        Ok(response.containers)
    }

    /// Freezes all processes of a running container.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STATE`] unless it is running.
    pub fn pause(&self, id: &str) -> Result<(), ClientError> {
        let request = v1::PauseRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.tell("Pause", &request)
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STATE`] unless it is paused.
    pub fn resume(&self, id: &str) -> Result<(), ClientError> {
        let request = v1::ResumeRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.tell("Resume", &request)
    }

    /// What a container uses.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_NOT_FOUND`].
    pub fn stats(&self, id: &str) -> Result<v1::StatsResponse, ClientError> {
        let request = v1::StatsRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.call("Stats", &request)
    }

    /// Removes a container: cgroup, mounts, files. With `force`, its processes
    /// are killed first.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STATE`] if it runs and `force` is not set.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), ClientError> {
        self.delete_with(v1::DeleteRequest {
            id: id.to_owned(),
            force,
            ..Default::default()
        })
    }

    /// [`AgentClient::delete`] with everything that can be said.
    ///
    /// # Errors
    /// As [`AgentClient::delete`].
    pub fn delete_with(&self, request: v1::DeleteRequest) -> Result<(), ClientError> {
        self.tell("Delete", &request)
    }

    /// Starts another process in a running container. Answers the pid.
    ///
    /// # Errors
    /// As [`AgentClient::create`], and [`ErrorKind::ERROR_KIND_STATE`] unless
    /// the container is running.
    pub fn exec(&self, request: v1::ExecRequest) -> Result<u32, ClientError> {
        let response: v1::ExecResponse = self.call("Exec", &request)?;
        Ok(response.pid)
    }

    /// Sends a signal, 1 to 64, to a process; to one that has ended, it is
    /// [`ErrorKind::ERROR_KIND_STATE`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn signal(&self, process: &ProcessId, signal: u32) -> Result<(), ClientError> {
        self.send_signal(process, signal, false)
    }

    /// Sends a signal to every process of a container.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn signal_all(&self, id: &str, signal: u32) -> Result<(), ClientError> {
        self.send_signal(&id.into(), signal, true)
    }

    fn send_signal(&self, process: &ProcessId, signal: u32, all: bool) -> Result<(), ClientError> {
        let request = v1::SignalRequest {
            id: process.container.clone(),
            exec_id: process.exec.clone(),
            signal,
            all,
            ..Default::default()
        };
        self.tell("Signal", &request)
    }

    /// Waits for a process to end and for its output to have gone to its
    /// streams; as long as it takes, or until a deadline.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_DEADLINE`] when it has not ended by then. Once a
    /// container is deleted: [`ErrorKind::ERROR_KIND_NOT_FOUND`].
    pub fn wait(&self, process: &ProcessId, deadline: Option<Duration>) -> Result<v1::Exit, ClientError> {
        let request = v1::WaitRequest {
            id: process.container.clone(),
            exec_id: process.exec.clone(),
            ..Default::default()
        };
        let response: v1::WaitResponse = self.call_within("Wait", deadline, &request)?;
        Ok(response.exit.unwrap_or_default())
    }

    /// Tells a process's terminal its size, in characters.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STATE`] for a process without terminal.
    pub fn resize(&self, process: &ProcessId, rows: u16, columns: u16) -> Result<(), ClientError> {
        let size = v1::TerminalSize {
            rows: rows.into(),
            columns: columns.into(),
            ..Default::default()
        };
        let request = v1::ResizeRequest {
            id: process.container.clone(),
            exec_id: process.exec.clone(),
            size: Some(size).into(),
            ..Default::default()
        };
        self.tell("Resize", &request)
    }

    /// Gives a container new limits: `linux.resources` of the OCI runtime
    /// specification as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_INVALID`], [`ErrorKind::ERROR_KIND_RUNTIME`].
    pub fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), ClientError> {
        let request = v1::UpdateRequest {
            id: id.to_owned(),
            resources,
            ..Default::default()
        };
        self.tell("Update", &request)
    }

    /// What is at a path of a container.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_NOT_FOUND`] if there is no such container; that
    /// nothing is at the path is an answer.
    pub fn stat_path(&self, id: &str, path: &str) -> Result<v1::StatPathResponse, ClientError> {
        let request = v1::StatPathRequest {
            id: id.to_owned(),
            path: path.to_owned(),
            ..Default::default()
        };
        self.call("StatPath", &request)
    }

    /// Unpacks a tar stream in a container, as long as it takes.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STORAGE`], [`ErrorKind::ERROR_KIND_INVALID`].
    pub fn copy_in(&self, request: &v1::CopyInRequest) -> Result<(), ClientError> {
        self.call_within("CopyIn", None, request)
            .map(|v1::Empty { .. }| ())
    }

    /// Packs a file or folder of a container as a tar stream, as long as it takes.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STORAGE`], [`ErrorKind::ERROR_KIND_INVALID`].
    pub fn copy_out(&self, request: &v1::CopyOutRequest) -> Result<(), ClientError> {
        self.call_within("CopyOut", None, request)
            .map(|v1::Empty { .. }| ())
    }

    /// Calls what answers nothing but that it is done.
    fn tell(&self, call: &'static str, request: &impl Message) -> Result<(), ClientError> {
        self.call(call, request).map(|v1::Empty { .. }| ())
    }

    fn call<A: Message>(&self, call: &'static str, request: &impl Message) -> Result<A, ClientError> {
        self.call_within(call, Some(self.deadline), request)
    }

    /// Calls with a deadline that both ends keep.
    fn call_within<A: Message>(
        &self,
        call: &'static str,
        deadline: Option<Duration>,
        request: &impl Message,
    ) -> Result<A, ClientError> {
        request
            .write_to_bytes()
            .map_err(malformed(call))
            .and_then(|payload| self.exchange(call, deadline, payload))
            .and_then(|payload| A::parse_from_bytes(&payload).map_err(malformed(call)))
    }

    /// [`AgentClient::call_within`], of messages as bytes.
    fn exchange(
        &self,
        call: &'static str,
        deadline: Option<Duration>,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, ClientError> {
        let begun = Instant::now();
        // 0 means no deadline to ttRPC.
        let nanoseconds = deadline.map_or(0, |deadline| deadline.as_nanos().max(1));
        let request = Request {
            service: SERVICE.to_owned(),
            method: call.to_owned(),
            payload,
            timeout_nano: i64::try_from(nanoseconds).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let body = request.write_to_bytes().map_err(malformed(call))?;
        if body.len() > frame::MAX_BODY {
            let (length, most) = (body.len(), frame::MAX_BODY);
            let message = format!("{call} would be a message of {length} bytes; the most is {most}");
            return Err(AgentError::new(ErrorKind::ERROR_KIND_INVALID, message).into());
        }
        // One that no clock can count is none.
        let until = deadline.and_then(|deadline| begun.checked_add(deadline));
        let answer = self
            .connection
            .call(&body, until)
            .map_err(|failure| match failure {
                Failure::Deadline => ClientError::Deadline {
                    call,
                    deadline: deadline.unwrap_or_default(),
                },
                Failure::Connection(source) => ClientError::Connection { call, source },
            })?;
        let response = Response::parse_from_bytes(&answer).map_err(malformed(call))?;
        match response.status.as_ref().filter(|status| status.code != 0) {
            Some(status) => Err(AgentError::from_envelope(status).into()),
            None => Ok(response.payload),
        }
    }
}

fn malformed(call: &'static str) -> impl Fn(protobuf::Error) -> ClientError {
    move |error| {
        let source = ConnectionError::Answer(Arc::new(error));
        ClientError::Connection { call, source }
    }
}
