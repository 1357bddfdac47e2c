//! Why a call of the agent failed.

use std::time::Duration;

use thiserror::Error;

use crate::error::{AgentError, ErrorKind};

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The agent refused, or failed to do it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// No answer in time.
    #[error("the agent did not answer {call} within {} ms", deadline.as_millis())]
    Deadline {
        /// Name of the call.
        call: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The connection broke, or brought something else than ttRPC.
    #[error("the connection to the agent broke during {call}")]
    Connection {
        /// Name of the call.
        call: &'static str,
        /// What ttRPC says about it.
        source: ttrpc::Error,
    },
}

impl ClientError {
    /// The kind of error that the agent answered, if it answered one.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Agent(error) => Some(error.kind),
            Self::Deadline { .. } => Some(ErrorKind::ERROR_KIND_DEADLINE),
            Self::Connection { .. } => None,
        }
    }
}
