//! Errors as they cross the wire: a ttRPC status whose details hold an
//! [`ErrorDetail`] with the kind, so that a client need not read messages.

use protobuf::{EnumOrUnknown, Message};
use thiserror::Error;
use ttrpc::proto::Any;
use ttrpc::{Code, Status};

use crate::v1::ErrorDetail;
pub use crate::v1::ErrorKind;

/// Type of the detail, as `google.protobuf.Any` wants it.
const DETAIL_TYPE: &str = "type.googleapis.com/koya.agent.v1.ErrorDetail";

/// An error that the agent answered.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{message}")]
pub struct AgentError {
    /// What kind it is.
    pub kind: ErrorKind,
    /// What was wrong, where, and what would be right; one line.
    pub message: String,
}

impl AgentError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }

    /// The exit code that users of container engines know: 127 for a missing
    /// executable, 126 for one that cannot be executed, 125 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::ERROR_KIND_EXECUTABLE_MISSING => 127,
            ErrorKind::ERROR_KIND_NOT_EXECUTABLE => 126,
            _ => 125,
        }
    }

    /// As the status of a response.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let detail = ErrorDetail {
            kind: EnumOrUnknown::new(self.kind),
            ..Default::default()
        };
        let mut status = ttrpc::get_status(code(self.kind), &self.message);
        // Writing two varints into a vector cannot fail; without them the
        // receiver sees ERROR_KIND_UNSPECIFIED.
        let value = detail.write_to_bytes().unwrap_or_default();
        status.details.push(Any {
            type_url: DETAIL_TYPE.to_owned(),
            value,
            ..Default::default()
        });
        status
    }

    /// What a response's status says. A status without detail, from ttRPC
    /// itself, has [`ErrorKind::ERROR_KIND_UNSPECIFIED`].
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let detail = status
            .details
            .iter()
            .find(|any| any.type_url == DETAIL_TYPE)
            .and_then(|any| ErrorDetail::parse_from_bytes(&any.value).ok());
        let kind = detail.map_or(ErrorKind::ERROR_KIND_UNSPECIFIED, |detail| {
            detail.kind.enum_value_or_default()
        });
        Self::new(kind, status.message.clone())
    }
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        Self::RpcStatus(error.to_status())
    }
}

/// gRPC's code for a kind, for clients that know only those.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::ERROR_KIND_VERSION | ErrorKind::ERROR_KIND_STATE => Code::FAILED_PRECONDITION,
        ErrorKind::ERROR_KIND_INVALID
        | ErrorKind::ERROR_KIND_EXECUTABLE_MISSING
        | ErrorKind::ERROR_KIND_NOT_EXECUTABLE => Code::INVALID_ARGUMENT,
        ErrorKind::ERROR_KIND_NOT_FOUND => Code::NOT_FOUND,
        ErrorKind::ERROR_KIND_EXISTS => Code::ALREADY_EXISTS,
        ErrorKind::ERROR_KIND_DEADLINE => Code::DEADLINE_EXCEEDED,
        ErrorKind::ERROR_KIND_LIMIT => Code::RESOURCE_EXHAUSTED,
        ErrorKind::ERROR_KIND_STORAGE | ErrorKind::ERROR_KIND_RUNTIME => Code::INTERNAL,
        ErrorKind::ERROR_KIND_UNSPECIFIED => Code::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_wire() {
        let sent = AgentError::new(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING, "no /bin/nothing");
        let bytes = sent.to_status().write_to_bytes().unwrap();
        let received = AgentError::from_status(&Status::parse_from_bytes(&bytes).unwrap());
        assert_eq!(received, sent);
        assert_eq!(received.exit_code(), 127);
        assert_eq!(received.to_string(), "no /bin/nothing");
    }

    #[test]
    fn a_status_of_another_service_has_no_kind() {
        let status = ttrpc::get_status(Code::UNIMPLEMENTED, "what?");
        let error = AgentError::from_status(&status);
        assert_eq!(error.kind, ErrorKind::ERROR_KIND_UNSPECIFIED);
        assert_eq!(error.exit_code(), 125);
    }
}
