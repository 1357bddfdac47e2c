//! The helper: this program, run anew for one job that has to be done by a
//! process with one thread, because it forks and enters namespaces.
//!
//! ```text
//!  agent ── JSON request, then end ──► helper (descriptor 3) ── forks ──► the process
//!        ◄── JSON reply, and a descriptor ──                    and exits, so that the process
//!                                                               becomes the agent's child
//! ```
//!
//! Descriptors 0, 1 and 2 of the helper are those of the process.

mod call;
mod causes;
mod copy;
mod create;
mod exec;
mod identity;
mod init;
pub mod map;
mod namespace;
mod program;
mod room;
mod user;

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use koya_proto::error::ErrorKind;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};

pub use call::{Call, Done};
pub use copy::{Found, Job as CopyJob};
pub use identity::{Filter, Identity};
pub use room::{Change, Room};

use crate::sys::CONTROL_FD;

/// What a helper is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Create a container, up to its first process waiting to be started.
    Create {
        /// Its id.
        id: String,
        /// The folder with its config.json.
        bundle: PathBuf,
        /// Where the container runtime keeps its state.
        root: PathBuf,
        /// A socket on which it awaits the terminal's master.
        console: Option<PathBuf>,
        /// Its first process, and what makes it ready for it.
        room: Box<Room>,
    },
    /// Start a created container.
    Start {
        /// Its id.
        id: String,
        /// Where the container runtime keeps its state.
        root: PathBuf,
    },
    /// Run a process in a running container.
    Exec {
        /// The container's first process.
        init: u32,
        /// Its cgroup, for when the first process's own cannot be joined.
        cgroup: PathBuf,
        /// The process object of the OCI runtime specification.
        process: serde_json::Value,
        /// Who it is, and which system calls it has.
        identity: Identity,
        /// Rows and columns of its terminal, if it has one.
        size: (u16, u16),
    },
    /// Look at, pack or unpack files of a container.
    Copy {
        /// The container's first process.
        init: u32,
        /// What to do with them.
        job: CopyJob,
    },
    /// Make a user namespace that nothing runs in; its descriptor is answered.
    Namespace {
        /// What its uid_map is to hold.
        users: String,
        /// What its gid_map is to hold.
        groups: String,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done; the pid of the process that was made, if one was.
    Done {
        /// In the agent's PID namespace.
        pid: u32,
    },
    /// It is not.
    Failed(Failure),
}

/// Why a helper's job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of error it is.
    pub kind: Kind,
    /// For people.
    pub message: String,
}

/// [`ErrorKind`]s that a helper tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// No such executable.
    Missing,
    /// Not executable.
    NotExecutable,
    /// What was asked makes no sense.
    Invalid,
    /// Anything else.
    Runtime,
}

impl From<Kind> for ErrorKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Missing => Self::ERROR_KIND_EXECUTABLE_MISSING,
            Kind::NotExecutable => Self::ERROR_KIND_NOT_EXECUTABLE,
            Kind::Invalid => Self::ERROR_KIND_INVALID,
            Kind::Runtime => Self::ERROR_KIND_RUNTIME,
        }
    }
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }

    /// An act that failed, with everything its error says.
    pub fn runtime(act: &str, error: &dyn std::error::Error) -> Self {
        let mut message = format!("cannot {act}: {error}");
        let mut last = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            // Transparent errors say the same as their sources.
            let text = error.to_string();
            if !last.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            last = text;
            source = error.source();
        }
        Self::new(Kind::Runtime, message)
    }
}

/// What a job ends with: a pid, and a descriptor: the terminal's master if it made one itself, or a namespace.
type Outcome = Result<(u32, Option<OwnedFd>), Failure>;

/// `main` of a helper.
pub fn run() -> ExitCode {
    // SAFETY: the agent has opened it for this process, and nothing else here
    // knows it.
    let control = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    // What it starts in a container is nobody that the agent may hear.
    let closing = fcntl(CONTROL_FD, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(io::Error::from);
    let mut control = UnixStream::from(control);
    let mut request = Vec::new();
    let outcome = match closing.and_then(|_| control.read_to_end(&mut request)) {
        Ok(_) => match serde_json::from_slice(&request) {
            Ok(request) => carry_out(request),
            Err(error) => Err(Failure::runtime("understand the agent", &error)),
        },
        Err(error) => Err(Failure::runtime("hear the agent", &error)),
    };
    let code = if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    let (reply, descriptor) = match outcome {
        Ok((pid, descriptor)) => (Reply::Done { pid }, descriptor),
        Err(failure) => (Reply::Failed(failure), None),
    };
    // If the agent has gone, nobody is left to be told.
    let _ = answer(&mut control, &reply, descriptor.as_ref());
    code
}

fn carry_out(request: Request) -> Outcome {
    match request {
        Request::Create {
            id,
            bundle,
            root,
            console,
            room,
        } => create::create(id, bundle, root, console, *room),
        Request::Start { id, root } => create::start(&root.join(id)),
        Request::Exec {
            init,
            cgroup,
            process,
            identity,
            size,
        } => exec::exec(init, &cgroup, process, &identity, size),
        Request::Copy { init, job } => copy::copy(init, &job),
        Request::Namespace { users, groups } => namespace::make(&users, &groups),
    }
}

fn answer(control: &mut UnixStream, reply: &Reply, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(descriptor) = descriptor {
        let descriptors = [descriptor.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        // A line of its own carries the descriptor.
        sendmsg::<()>(
            control.as_raw_fd(),
            &[IoSlice::new(b"\n")],
            &message,
            MsgFlags::empty(),
            None,
        )?;
    }
    control.write_all(serde_json::to_string(reply)?.as_bytes())?;
    control.shutdown(Shutdown::Both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it broke")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_failure_tells_its_sources() {
        let error = Outer(io::Error::from_raw_os_error(libc::ENOSPC));
        let failure = Failure::runtime("store it", &error);
        assert_eq!(
            failure.message,
            "cannot store it: it broke: No space left on device (os error 28)"
        );
    }
}
