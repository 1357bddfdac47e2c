//! What goes wrong, in the words that engines look for.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use koya_proto::client::ClientError;
use koya_proto::error::ErrorKind;
use koya_sandbox::bundle::BundleError;
use koya_sandbox::network::NamespaceError;
use koya_sandbox::network::takeover::TakeoverError;
use koya_sandbox::parts::PartsError;
use koya_sandbox::settings::SettingsError;
use koya_sandbox::signals::SignalError;
use koya_sandbox::volumes::VolumeError;
use koya_sandbox::{DeviceError, Kind, StartError};

use crate::cgroup::BusError;
use crate::control::Told;
use crate::record::Status;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The bundle cannot be run.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// There is no bundle where one was said to be.
    #[error("cannot use the bundle {path:?}")]
    NoBundle {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No container has this id. Engines know a container that is gone by these words.
    #[error("container '{0}' does not exist")]
    Unknown(String),
    /// The id is taken.
    #[error("container with id '{0}' already exists")]
    Exists(String),
    /// The id would be no folder's name.
    #[error("{0:?} is no container id; want 1 to 128 of A-Z a-z 0-9 _ . - beginning with a letter or digit")]
    Id(String),
    /// The lifecycle does not allow it.
    #[error("container '{id}' is {status}; only a {wanted} one can be {verb}")]
    State {
        /// The container.
        id: String,
        /// What it is.
        status: Status,
        /// What it would have to be.
        wanted: &'static str,
        /// What was to be done.
        verb: &'static str,
    },
    /// A device cannot join the microVM.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A file cannot be read or written.
    #[error("cannot {act} {path:?}")]
    File {
        /// What was to be done with it.
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that was named on the command line cannot be read, or says nothing.
    #[error("cannot {act} {path:?}")]
    Given {
        /// What was to be done with it.
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A state of another version, or none.
    #[error("the state of container '{0}' in {1:?} cannot be understood; delete it with --force")]
    Unreadable(String, PathBuf),
    /// Something of this process or of the kernel.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    /// A terminal without anybody to take it.
    #[error("process.terminal is true, but there is no --console-socket to send the terminal to")]
    NoConsoleSocket,
    /// The other way round.
    #[error("there is a --console-socket, but process.terminal is not true")]
    NoTerminal,
    /// The console socket does not take the terminal.
    #[error("cannot send the terminal to the console socket {path:?}")]
    ConsoleSocket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cgroup that the bundle names.
    #[error(
        "config.json: linux.cgroupsPath {0:?} is no name of a cgroup; want a path without '..', or with \
         --systemd-cgroup SLICE:PREFIX:NAME"
    )]
    Cgroup(String),
    /// systemd's cgroup of it.
    #[error("cannot {0} the scope {1}")]
    Scope(&'static str, String, #[source] BusError),
    /// A hook failed.
    #[error("the {kind} hook {path:?} {what}")]
    Hook {
        /// Which kind.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// How it ended, and what it said.
        what: String,
    },
    /// A text that is no signal.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The process to run in a container.
    #[error("{0}")]
    Process(String),
    /// The operator's file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A part is missing.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// Files cannot be served.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The network namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The network in it.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// The microVM does not come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The agent refused.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// What the monitor, or the process that starts another one, says.
    #[error(transparent)]
    Told(#[from] Told),
    /// It said nothing.
    #[error("the monitor of container '{0}' has ended; its microVM is gone")]
    Gone(String),
}

impl RuntimeError {
    /// For [`Result::map_err`].
    pub fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { act, path, source }
    }

    /// For [`Result::map_err`].
    pub fn system<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System(act, source.into())
    }

    /// For [`Result::map_err`].
    pub fn given<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Given {
            act,
            path,
            source: source.into(),
        }
    }

    /// What kind of error it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bundle(error) => error.kind(),
            Self::Namespace(error) | Self::Takeover(TakeoverError::Namespace(error)) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::Agent(error) => match error.kind().map_or(Kind::Gone, Kind::from) {
                // What there is under a name is known here, and not the guest's to say.
                Kind::Exists => Kind::Other,
                kind => kind,
            },
            Self::Told(told) => told.kind,
            Self::Unknown(_) | Self::Volume(VolumeError::Missing { .. }) => Kind::NotFound,
            Self::NoBundle { source, .. } | Self::Given { source, .. }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Kind::NotFound
            }
            Self::Exists(_) => Kind::Exists,
            Self::State { .. } | Self::Device(DeviceError::Taken(_)) => Kind::State,
            Self::Id(_)
            | Self::NoBundle { .. }
            | Self::Given { .. }
            | Self::NoConsoleSocket
            | Self::NoTerminal
            | Self::ConsoleSocket { .. }
            | Self::Cgroup(_)
            | Self::Signal(_)
            | Self::Process(_) => Kind::Invalid,
            Self::Settings(_)
            | Self::Parts(_)
            | Self::Scope(..)
            | Self::Takeover(TakeoverError::Tap { .. } | TakeoverError::Redirect { .. }) => Kind::Host,
            Self::Gone(_) => Kind::Gone,
            Self::Device(_)
            | Self::File { .. }
            | Self::Unreadable(..)
            | Self::System(..)
            | Self::Hook { .. }
            | Self::Volume(_)
            | Self::Takeover(_) => Kind::Other,
        }
    }

    /// It and its causes in one line. Engines find in it why a program could not be run, and choose their exit code by
    /// it: 127 for what is not there, 126 for what may not be executed.
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        if let Self::Agent(error) = self {
            match error.kind() {
                Some(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING) => {
                    text.push_str(": executable file not found in $PATH: no such file or directory");
                }
                Some(ErrorKind::ERROR_KIND_NOT_EXECUTABLE) => text.push_str(": permission denied"),
                _ => {}
            }
        }
        text.chars()
            .map(|shown| if shown.is_control() { ' ' } else { shown })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use koya_proto::error::AgentError;

    use super::*;

    #[test]
    fn each_error_is_of_the_kind_that_those_who_ask_expect() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let path = || PathBuf::from("/no/such");
        let web = || "web".to_owned();
        let agent = |kind| RuntimeError::from(ClientError::Agent(AgentError::new(kind, "no")));
        let version = BundleError::Version("9.9.9".to_owned());
        let state = RuntimeError::State {
            id: web(),
            status: Status::Stopped,
            wanted: "running",
            verb: "paused",
        };
        let unread = BundleError::Read {
            path: path(),
            source: missing(),
        };
        for (error, kind) in [
            (RuntimeError::from(version), Kind::Invalid),
            (RuntimeError::from(unread), Kind::NotFound),
            (RuntimeError::given("read", &path())(missing()), Kind::NotFound),
            (
                RuntimeError::given("understand", &path())(io::Error::other("no JSON")),
                Kind::Invalid,
            ),
            // It is a file of ours that is gone, and nothing that somebody named.
            (RuntimeError::file("read", &path())(missing()), Kind::Other),
            (RuntimeError::Unknown(web()), Kind::NotFound),
            (RuntimeError::Exists(web()), Kind::Exists),
            (RuntimeError::Id("a/b".to_owned()), Kind::Invalid),
            (state, Kind::State),
            (RuntimeError::NoConsoleSocket, Kind::Invalid),
            (RuntimeError::Gone(web()), Kind::Gone),
            (RuntimeError::from(PartsError::NoVirtiofsd), Kind::Host),
            (agent(ErrorKind::ERROR_KIND_NOT_FOUND), Kind::NotFound),
            (agent(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING), Kind::NoProgram),
            (agent(ErrorKind::ERROR_KIND_STORAGE), Kind::Other),
            (Told::new(Kind::Limit, "too many").into(), Kind::Limit),
        ] {
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}
