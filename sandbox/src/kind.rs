//! Kinds of errors, by which programs decide what to do: their texts are for people. They are told from process to process
//! by name: from a container's monitor to commands, and in logs of JSON.

use koya_proto::error::ErrorKind;
use serde::{Deserialize, Serialize};

/// What kind of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What was asked for makes no sense, or cannot be had in a microVM.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// There is one already.
    Exists,
    /// The lifecycle does not allow it.
    State,
    /// The program to run is not there.
    NoProgram,
    /// The program to run cannot be executed.
    NotExecutable,
    /// The host lacks something, and will until somebody mends that: KVM, a part of Koya, the right to use one.
    Host,
    /// There is a limit.
    Limit,
    /// It took too long.
    Late,
    /// Whoever would answer has ended.
    Gone,
    /// Anything else.
    #[default]
    Other,
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ERROR_KIND_INVALID => Self::Invalid,
            ErrorKind::ERROR_KIND_NOT_FOUND => Self::NotFound,
            ErrorKind::ERROR_KIND_EXISTS => Self::Exists,
            ErrorKind::ERROR_KIND_STATE => Self::State,
            ErrorKind::ERROR_KIND_EXECUTABLE_MISSING => Self::NoProgram,
            ErrorKind::ERROR_KIND_NOT_EXECUTABLE => Self::NotExecutable,
            ErrorKind::ERROR_KIND_DEADLINE => Self::Late,
            ErrorKind::ERROR_KIND_LIMIT => Self::Limit,
            ErrorKind::ERROR_KIND_UNSPECIFIED
            | ErrorKind::ERROR_KIND_VERSION
            | ErrorKind::ERROR_KIND_STORAGE
            | ErrorKind::ERROR_KIND_RUNTIME => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_is_known_by_it() {
        let all = [
            (Kind::Invalid, "invalid"),
            (Kind::NotFound, "not-found"),
            (Kind::Exists, "exists"),
            (Kind::State, "state"),
            (Kind::NoProgram, "no-program"),
            (Kind::NotExecutable, "not-executable"),
            (Kind::Host, "host"),
            (Kind::Limit, "limit"),
            (Kind::Late, "late"),
            (Kind::Gone, "gone"),
            (Kind::Other, "other"),
        ];
        for (kind, name) in all {
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
            assert_eq!(serde_json::from_value::<Kind>(name.into()).unwrap(), kind);
        }
    }
}
