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
//! connection is closed with the last clone.

mod error;

use std::os::fd::{IntoRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ttrpc::context::Context;

pub use error::ClientError;

use crate::error::{AgentError, ErrorKind};
use crate::generated::agent_ttrpc::AgentClient as Calls;
use crate::v1;
use crate::{PROTOCOL_MAJOR, PROTOCOL_MINOR};

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
    calls: Calls,
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
    // The client owns the descriptor from here on, and closes it.
    let client =
        ttrpc::Client::new(socket.into().into_raw_fd()).map_err(|source| ClientError::Connection {
            call: "Version",
            source,
        })?;
    let mut client = AgentClient {
        calls: Calls::new(client),
        version: v1::VersionResponse::default(),
        deadline,
    };
    let request = v1::VersionRequest {
        protocol_major: major,
        protocol_minor: minor,
        ..Default::default()
    };
    client.version = client.call("Version", |calls, context| calls.version(context, &request))?;
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
        self.call("Health", |calls, context| {
            calls.health(context, &v1::HealthRequest::new())
        })
    }

    /// Kernel, processors and memory of the guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn details(&self) -> Result<v1::DetailsResponse, ClientError> {
        self.call("Details", |calls, context| {
            calls.details(context, &v1::DetailsRequest::new())
        })
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
        self.call("SetClock", |calls, context| calls.set_clock(context, &request))
            .map(drop)
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
        self.call("Reseed", |calls, context| calls.reseed(context, &request))
            .map(drop)
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
        self.call("Shutdown", |calls, context| calls.shutdown(context, &request))
            .map(drop)
    }

    /// Creates a container: everything but running its first process. Answers
    /// the pid.
    ///
    /// # Errors
    /// Besides others [`ErrorKind::ERROR_KIND_EXECUTABLE_MISSING`] and
    /// [`ErrorKind::ERROR_KIND_NOT_EXECUTABLE`]; nothing of the container is left then.
    pub fn create(&self, request: v1::CreateRequest) -> Result<u32, ClientError> {
        let response = self.call("Create", |calls, context| calls.create(context, &request))?;
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
        self.call("Start", |calls, context| calls.start(context, &request))
            .map(drop)
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
        self.call("State", |calls, context| calls.state(context, &request))
    }

    /// The states of all containers, by id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn list(&self) -> Result<Vec<v1::ContainerState>, ClientError> {
        let request = v1::ListRequest::new();
        let response = self.call("List", |calls, context| calls.list(context, &request))?;
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
        self.call("Pause", |calls, context| calls.pause(context, &request))
            .map(drop)
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
        self.call("Resume", |calls, context| calls.resume(context, &request))
            .map(drop)
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
        self.call("Stats", |calls, context| calls.stats(context, &request))
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
        self.call("Delete", |calls, context| calls.delete(context, &request))
            .map(drop)
    }

    /// Starts another process in a running container. Answers the pid.
    ///
    /// # Errors
    /// As [`AgentClient::create`], and [`ErrorKind::ERROR_KIND_STATE`] unless
    /// the container is running.
    pub fn exec(&self, request: v1::ExecRequest) -> Result<u32, ClientError> {
        let response = self.call("Exec", |calls, context| calls.exec(context, &request))?;
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
        self.call("Signal", |calls, context| calls.signal(context, &request))
            .map(drop)
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
        let response = self.call_within("Wait", deadline, |calls, context| calls.wait(context, &request))?;
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
        self.call("Resize", |calls, context| calls.resize(context, &request))
            .map(drop)
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
        self.call("Update", |calls, context| calls.update(context, &request))
            .map(drop)
    }

    /// Moves network devices into a container and sets them up.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_NOT_FOUND`] if no device has the address;
    /// [`ErrorKind::ERROR_KIND_INVALID`], [`ErrorKind::ERROR_KIND_RUNTIME`].
    pub fn configure_network(&self, request: &v1::ConfigureNetworkRequest) -> Result<(), ClientError> {
        self.call("ConfigureNetwork", |calls, context| {
            calls.configure_network(context, request)
        })
        .map(drop)
    }

    /// Joins a stream to a TCP port of a container's loopback device.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_RUNTIME`] if nobody listens there.
    pub fn dial(&self, request: &v1::DialRequest) -> Result<(), ClientError> {
        self.call("Dial", |calls, context| calls.dial(context, request))
            .map(drop)
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
        self.call("StatPath", |calls, context| calls.stat_path(context, &request))
    }

    /// Unpacks a tar stream in a container, as long as it takes.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STORAGE`], [`ErrorKind::ERROR_KIND_INVALID`].
    pub fn copy_in(&self, request: &v1::CopyInRequest) -> Result<(), ClientError> {
        self.call_within("CopyIn", None, |calls, context| calls.copy_in(context, request))
            .map(drop)
    }

    /// Packs a file or folder of a container as a tar stream, as long as it takes.
    ///
    /// # Errors
    /// [`ErrorKind::ERROR_KIND_STORAGE`], [`ErrorKind::ERROR_KIND_INVALID`].
    pub fn copy_out(&self, request: &v1::CopyOutRequest) -> Result<(), ClientError> {
        self.call_within("CopyOut", None, |calls, context| calls.copy_out(context, request))
            .map(drop)
    }

    fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce(&Calls, Context) -> ttrpc::Result<T>,
    ) -> Result<T, ClientError> {
        self.call_within(name, Some(self.deadline), call)
    }

    /// Calls with a deadline that both ends keep.
    fn call_within<T>(
        &self,
        call: &'static str,
        deadline: Option<Duration>,
        function: impl FnOnce(&Calls, Context) -> ttrpc::Result<T>,
    ) -> Result<T, ClientError> {
        // 0 means no deadline to ttRPC.
        let nanoseconds = deadline.map_or(0, |deadline| deadline.as_nanos().max(1));
        let context = ttrpc::context::with_timeout(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
        let begun = Instant::now();
        function(&self.calls, context).map_err(|error| match (error, deadline) {
            (ttrpc::Error::RpcStatus(status), _) => AgentError::from_status(&status).into(),
            (_, Some(deadline)) if begun.elapsed() >= deadline => ClientError::Deadline { call, deadline },
            (source, _) => ClientError::Connection { call, source },
        })
    }
}
