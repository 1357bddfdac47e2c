//! What goes wrong, with the codes that containerd and those behind it look for.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use koya_sandbox::Kind;
use ttrpc::Code;

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No container has this id.
    #[error("container '{0}' is not known to this shim")]
    NoContainer(String),
    /// No process of a container has this id.
    #[error("container '{id}' has no process '{exec}'")]
    NoProcess {
        /// The container.
        id: String,
        /// The process.
        exec: String,
    },
    /// The id is taken.
    #[error("'{0}' already exists")]
    Exists(String),
    /// The id would be no file's name.
    #[error("{0:?} is no id; want 1 to 128 of A-Z a-z 0-9 _ . - beginning with a letter or digit")]
    Id(String),
    /// Signals come too late. Those who send them know these words.
    #[error("process already finished")]
    Finished,
    /// The lifecycle does not allow it.
    #[error("{what} is {is}; only a {wanted} one can be {verb}")]
    State {
        /// The container or the process.
        what: String,
        /// What it is.
        is: &'static str,
        /// What it would have to be.
        wanted: &'static str,
        /// What was to be done.
        verb: &'static str,
    },
    /// A file cannot be read, written or opened.
    #[error("cannot {act} {path:?}")]
    File {
        /// What was to be done with it.
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of this process or of the kernel.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    /// A stream that goes where this shim brings nothing.
    #[error("{0:?} is no stream; want a FIFO's path, file:///PATH, binary:///PATH?KEY=VALUE, or nothing")]
    Stream(String),
    /// A program that was to take output.
    #[error("the logger {0:?} has ended or was not ready in time; a logger closes descriptor 5 when it is")]
    Logger(PathBuf),
    /// A container's root cannot be mounted.
    #[error("cannot mount {kind} from {from:?} at {at:?}")]
    Mount {
        /// The file system.
        kind: String,
        /// The source.
        from: String,
        /// The target.
        at: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A message that says nothing.
    #[error("the request has no {0}")]
    Missing(&'static str),
    /// Something that a microVM or this shim does not have.
    #[error("{0}")]
    Unsupported(&'static str),
    /// There is no runtime.
    #[error(
        "there is no koya-runtime: want it beside this program, in a folder of PATH, or named by KOYA_RUNTIME"
    )]
    NoRuntime,
    /// What the runtime says.
    #[error("{message}")]
    Told {
        /// What kind of error it is.
        kind: Kind,
        /// In one line.
        message: String,
    },
    /// It said nothing.
    #[error("koya-runtime {command} ended with exit code {code}, and gave no reason")]
    Silent {
        /// Which command.
        command: String,
        /// Its exit code.
        code: u32,
    },
    /// It did not end.
    #[error("koya-runtime {command} did not end within {seconds} s, and was killed")]
    Slow {
        /// Which command.
        command: String,
        /// How long it had.
        seconds: u64,
    },
    /// What it answered is not understood.
    #[error("what koya-runtime {0} printed is not understood")]
    Answer(&'static str),
    /// containerd has ended it.
    #[error("this shim has been told to end, and takes no container any more")]
    Over,
    /// There is a limit.
    #[error("there are {0} {1} already, and no more are taken")]
    Full(usize, &'static str),
}

impl TaskError {
    /// For [`Result::map_err`].
    pub fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { act, path, source }
    }

    /// For [`Result::map_err`].
    pub fn system<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System(act, source.into())
    }

    /// The code of the status.
    pub fn code(&self) -> Code {
        match self {
            Self::NoContainer(_) | Self::NoProcess { .. } | Self::Finished => Code::NOT_FOUND,
            Self::Exists(_) => Code::ALREADY_EXISTS,
            Self::State { .. } | Self::Over => Code::FAILED_PRECONDITION,
            Self::Id(_) | Self::Stream(_) | Self::Missing(_) => Code::INVALID_ARGUMENT,
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            Self::Full(..) => Code::RESOURCE_EXHAUSTED,
            Self::Told { kind, .. } => code_of(*kind),
            // The host lacks a part of Koya.
            Self::NoRuntime => Code::FAILED_PRECONDITION,
            Self::Slow { .. } => Code::DEADLINE_EXCEEDED,
            Self::File { .. }
            | Self::System(..)
            | Self::Logger(_)
            | Self::Mount { .. }
            | Self::Silent { .. }
            | Self::Answer(_) => Code::UNKNOWN,
        }
    }

    /// It and its causes in one line.
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// The code for what the runtime refuses.
fn code_of(kind: Kind) -> Code {
    match kind {
        // The program is the request's as well as the rest.
        Kind::Invalid | Kind::NoProgram | Kind::NotExecutable => Code::INVALID_ARGUMENT,
        Kind::NotFound => Code::NOT_FOUND,
        Kind::Exists => Code::ALREADY_EXISTS,
        // To try again is of no use before somebody has changed something.
        Kind::State | Kind::Host => Code::FAILED_PRECONDITION,
        Kind::Limit => Code::RESOURCE_EXHAUSTED,
        Kind::Late => Code::DEADLINE_EXCEEDED,
        Kind::Gone => Code::UNAVAILABLE,
        Kind::Other => Code::UNKNOWN,
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.one_line()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_clients_look_for() {
        for (kind, code) in [
            (Kind::Invalid, Code::INVALID_ARGUMENT),
            (Kind::NoProgram, Code::INVALID_ARGUMENT),
            (Kind::NotExecutable, Code::INVALID_ARGUMENT),
            (Kind::NotFound, Code::NOT_FOUND),
            (Kind::Exists, Code::ALREADY_EXISTS),
            (Kind::State, Code::FAILED_PRECONDITION),
            (Kind::Host, Code::FAILED_PRECONDITION),
            (Kind::Limit, Code::RESOURCE_EXHAUSTED),
            (Kind::Late, Code::DEADLINE_EXCEEDED),
            (Kind::Gone, Code::UNAVAILABLE),
            (Kind::Other, Code::UNKNOWN),
        ] {
            let message = "no".to_owned();
            assert_eq!(TaskError::Told { kind, message }.code(), code, "{kind:?}");
        }
        assert_eq!(TaskError::Finished.code(), Code::NOT_FOUND);
        assert_eq!(TaskError::NoRuntime.code(), Code::FAILED_PRECONDITION);
    }
}
