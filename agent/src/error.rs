//! Errors as clients see them, and those that keep the agent from starting.

use std::io;

use koya_proto::error::{AgentError, ErrorKind};
use nix::errno::Errno;
use thiserror::Error;

/// The result of whatever a request asks for.
pub type Result<T> = std::result::Result<T, AgentError>;

/// Why the agent cannot serve.
#[derive(Debug, Error)]
pub enum StartError {
    /// An operation on a file, socket or thread.
    #[error("cannot {act}: {source}")]
    Io {
        /// What was tried, on what.
        act: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl StartError {
    /// What was tried, and what the kernel said.
    pub fn io(act: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let act = act.into();
        move |source| Self::Io { act, source }
    }

    /// The same for an error number.
    pub fn errno(act: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let act = act.into();
        move |errno| Self::Io {
            act,
            source: errno.into(),
        }
    }
}

/// A field that is not acceptable.
pub fn invalid(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_INVALID, message)
}

/// A state that does not allow it.
pub fn state(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_STATE, message)
}

/// An id that nothing has.
pub fn not_found(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_NOT_FOUND, message)
}

/// An id that something has already.
pub fn exists(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_EXISTS, message)
}

/// A limit of the agent's own.
pub fn limit(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_LIMIT, message)
}

/// A deadline that passed.
pub fn deadline(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_DEADLINE, message)
}

/// Something that this agent does not do.
pub fn unsupported(what: &str) -> AgentError {
    state(format!("this agent does not {what}"))
}

/// What was tried, and what the kernel said.
pub fn runtime(act: impl std::fmt::Display) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::new(ErrorKind::ERROR_KIND_RUNTIME, format!("cannot {act}: {source}"))
}

/// The same for disks, file systems and mounts.
pub fn storage(act: impl std::fmt::Display, source: impl std::fmt::Display) -> AgentError {
    AgentError::new(ErrorKind::ERROR_KIND_STORAGE, format!("cannot {act}: {source}"))
}
