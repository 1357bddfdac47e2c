//! Why an action was refused, and how that looks on the wire.

use std::error::Error;

use serde::Serialize;

use crate::config::MachineConfigError;
use crate::http::Status;
use crate::json::printable;

/// The cause of a refused action, from whichever crate found it.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Longest `fault_message`, in characters: a cause may quote what the client sent.
const MAX_FAULT: usize = 2048;

/// Why an [`Action`](crate::Action) was refused.
///
/// The texts begin as Firecracker's do, because clients match on them; the rest comes from the cause.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The microVM has to be started first.
    #[error("The requested operation is not supported before starting the microVM.")]
    NotSupportedBeforeStart,
    /// The microVM has been started already.
    #[error("The requested operation is not supported after starting the microVM.")]
    NotSupportedAfterStart,
    /// The kernel, the initrd or the command line cannot be used.
    #[error("Boot source error")]
    BootSource(#[source] Cause),
    /// The drive cannot be added or changed.
    #[error("Drive config error")]
    Drive(#[source] Cause),
    /// The network interface cannot be added or changed.
    #[error("Network config error")]
    Network(#[source] Cause),
    /// The shared folder cannot be added.
    #[error("Shared folder config error")]
    SharedFolder(#[source] Cause),
    /// The vCPUs or the memory cannot be as asked.
    #[error("Machine config error")]
    Machine(#[source] MachineConfigError),
    /// The log cannot be set up.
    #[error("Logger error")]
    Logger(#[source] Cause),
    /// The metrics cannot be set up.
    #[error("Metrics error")]
    Metrics(#[source] Cause),
    /// The entropy device cannot be set up.
    #[error("Entropy config error")]
    Entropy(#[source] Cause),
    /// The socket device cannot be set up.
    #[error("Vsock config error")]
    Vsock(#[source] Cause),
    /// The serial console cannot be set up.
    #[error("Serial config error")]
    Serial(#[source] Cause),
    /// The microVM cannot be started.
    #[error("Start microvm error")]
    Start(#[source] Cause),
    /// No snapshot was made.
    #[error("Create snapshot error")]
    CreateSnapshot(#[source] Cause),
    /// The working set was not written.
    #[error("Working set error")]
    WorkingSet(#[source] Cause),
    /// The microVM cannot go on from the snapshot.
    #[error("Load snapshot error")]
    LoadSnapshot(#[source] Cause),
    /// The running microVM failed to do what was asked.
    #[error("Internal VMM error")]
    Internal(#[source] Cause),
}

impl From<MachineConfigError> for ActionError {
    fn from(err: MachineConfigError) -> Self {
        Self::Machine(err)
    }
}

/// An error and its causes in one line, joined by colons, control characters escaped.
pub fn one_line(err: &dyn Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    printable(&line, MAX_FAULT)
}

/// The body of every refusal: `{"fault_message": "…"}`, and the status code it goes with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The status code; not part of the body.
    #[serde(skip)]
    pub status: Status,
    /// What was wrong, and what would be right.
    pub fault_message: String,
}

impl Fault {
    /// A refusal of something the client asked: status 400.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_status(Status::BadRequest, message)
    }

    /// A refusal with a status code of its own.
    pub fn with_status(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            fault_message: printable(&message.into(), MAX_FAULT),
        }
    }
}

impl From<&ActionError> for Fault {
    fn from(err: &ActionError) -> Self {
        Self {
            status: Status::BadRequest,
            fault_message: one_line(err),
        }
    }
}

impl From<ActionError> for Fault {
    fn from(err: ActionError) -> Self {
        Self::from(&err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_carries_the_chain_in_one_line() {
        let cause = std::io::Error::other("no\nsuch thing");
        let fault = Fault::from(ActionError::BootSource(Box::new(cause)));
        assert_eq!(
            serde_json::to_string(&fault).unwrap(),
            r#"{"fault_message":"Boot source error: no\\nsuch thing"}"#
        );
        assert_eq!(fault.status, Status::BadRequest);
    }

    #[test]
    fn a_fault_is_bounded() {
        assert!(Fault::new("x".repeat(1 << 20)).fault_message.len() < 4096);
    }
}
