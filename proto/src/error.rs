//! Errors as they cross the wire: a ttRPC status whose details hold an
//! [`ErrorDetail`] with the kind, so that a client need not read messages.

#[cfg(any(test, feature = "server"))]
use protobuf::EnumOrUnknown;
use protobuf::Message;
use thiserror::Error;

#[cfg(any(test, feature = "server"))]
use crate::generated::envelope::Detail;
use crate::generated::envelope::Status;
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
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn to_envelope(&self) -> Status {
        let detail = ErrorDetail {
            kind: EnumOrUnknown::new(self.kind),
            ..Default::default()
        };
        let detail = Detail {
            type_url: DETAIL_TYPE.to_owned(),
            // Writing two varints into a vector cannot fail; without them the
            // receiver sees ERROR_KIND_UNSPECIFIED.
            value: detail.write_to_bytes().unwrap_or_default(),
            ..Default::default()
        };
        Status {
            code: code(self.kind),
            message: self.message.clone(),
            details: vec![detail],
            ..Default::default()
        }
    }

    /// As the status of a response, for who serves.
    #[cfg(feature = "server")]
    #[must_use]
    pub fn to_status(&self) -> ttrpc::Status {
        let Status {
            code,
            message,
            details,
            ..
        } = self.to_envelope();
        let details = details.into_iter().map(|detail| ttrpc::proto::Any {
            type_url: detail.type_url,
            value: detail.value,
            ..Default::default()
        });
        ttrpc::Status {
            code: EnumOrUnknown::from_i32(code),
            message,
            details: details.collect(),
            ..Default::default()
        }
    }

    /// What a response's status says. A status without detail, from ttRPC
    /// itself, has [`ErrorKind::ERROR_KIND_UNSPECIFIED`].
    pub(crate) fn from_envelope(status: &Status) -> Self {
        let detail = status
            .details
            .iter()
            .find(|detail| detail.type_url == DETAIL_TYPE)
            .and_then(|detail| ErrorDetail::parse_from_bytes(&detail.value).ok());
        let kind = detail.map_or(ErrorKind::ERROR_KIND_UNSPECIFIED, |detail| {
            detail.kind.enum_value_or_default()
        });
        Self::new(kind, status.message.clone())
    }
}

#[cfg(feature = "server")]
impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        Self::RpcStatus(error.to_status())
    }
}

/// gRPC's code for a kind, for clients that know only those.
#[cfg(any(test, feature = "server"))]
fn code(kind: ErrorKind) -> i32 {
    const UNKNOWN: i32 = 2;
    const INVALID_ARGUMENT: i32 = 3;
    const DEADLINE_EXCEEDED: i32 = 4;
    const NOT_FOUND: i32 = 5;
    const ALREADY_EXISTS: i32 = 6;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const FAILED_PRECONDITION: i32 = 9;
    const INTERNAL: i32 = 13;
    match kind {
        ErrorKind::ERROR_KIND_VERSION | ErrorKind::ERROR_KIND_STATE => FAILED_PRECONDITION,
        ErrorKind::ERROR_KIND_INVALID
        | ErrorKind::ERROR_KIND_EXECUTABLE_MISSING
        | ErrorKind::ERROR_KIND_NOT_EXECUTABLE => INVALID_ARGUMENT,
        ErrorKind::ERROR_KIND_NOT_FOUND => NOT_FOUND,
        ErrorKind::ERROR_KIND_EXISTS => ALREADY_EXISTS,
        ErrorKind::ERROR_KIND_DEADLINE => DEADLINE_EXCEEDED,
        ErrorKind::ERROR_KIND_LIMIT => RESOURCE_EXHAUSTED,
        ErrorKind::ERROR_KIND_STORAGE | ErrorKind::ERROR_KIND_RUNTIME => INTERNAL,
        ErrorKind::ERROR_KIND_UNSPECIFIED => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_wire() {
        let sent = AgentError::new(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING, "no /bin/nothing");
        let bytes = sent.to_envelope().write_to_bytes().unwrap();
        let received = AgentError::from_envelope(&Status::parse_from_bytes(&bytes).unwrap());
        assert_eq!(received, sent);
        assert_eq!(received.exit_code(), 127);
        assert_eq!(received.to_string(), "no /bin/nothing");
    }

    #[test]
    fn a_status_of_another_service_has_no_kind() {
        let status = Status {
            code: 12,
            message: "what?".to_owned(),
            ..Default::default()
        };
        let error = AgentError::from_envelope(&status);
        assert_eq!(error.kind, ErrorKind::ERROR_KIND_UNSPECIFIED);
        assert_eq!(error.exit_code(), 125);
    }

    /// The two descriptions of one message agree.
    #[cfg(feature = "server")]
    #[test]
    fn what_a_server_sends_is_what_a_client_reads() {
        let sent = AgentError::new(ErrorKind::ERROR_KIND_STATE, "it runs");
        let bytes = sent.to_status().write_to_bytes().unwrap();
        let status = Status::parse_from_bytes(&bytes).unwrap();
        assert_eq!(status.code, 9);
        assert_eq!(AgentError::from_envelope(&status), sent);
    }
}
