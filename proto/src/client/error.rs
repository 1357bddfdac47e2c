//! Why a call of the agent failed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::frame::{MAX_BODY, RESPONSE};
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
        /// What was wrong with it.
        source: ConnectionError,
    },
}

/// Why a connection cannot be used, now and later; but for an answer that is
/// none, which concerns its call alone.
#[derive(Debug, Clone, Error)]
pub enum ConnectionError {
    /// The end of it was reached.
    #[error("the agent closed it")]
    Closed,
    /// The socket.
    #[error("its socket failed")]
    Socket(#[source] Arc<io::Error>),
    /// A message with a length that no message has.
    #[error("it brought a message of {0} bytes; the most is {MAX_BODY}")]
    TooLong(u32),
    /// A message of a type that no client is sent.
    #[error("it brought a message of type {0}; want {RESPONSE}, an answer")]
    Type(u8),
    /// The agent took a part of a request and no more.
    #[error("the agent stopped reading in the middle of a request")]
    Stuck,
    /// An answer of this call that is not one.
    #[error("the answer is malformed")]
    Answer(#[source] Arc<protobuf::Error>),
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
