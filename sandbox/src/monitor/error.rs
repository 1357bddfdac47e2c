//! Why a monitor does not do what it is asked for.

use std::io;
use std::path::PathBuf;

use super::ends::FAILED;
use super::outside::OutsideError;
use super::room::StartRoomError;
use super::slots::SlotError;
use crate::sandbox::DeviceError;
use crate::state::StateError;

/// A request cannot be met.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Outside(#[from] OutsideError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Room(#[from] StartRoomError),
    #[error("container {0} runs already")]
    Runs(String),
    #[error("container {0} is being started; try again")]
    Starts(String),
    #[error("--memory-swap is memory and swap together, and must not be less than --memory; give both")]
    SwapBelowMemory,
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("container {0} is running; stop it first, or use force")]
    Running(String),
    #[error("container {0} did not end")]
    Lingers(String),
    #[error("cannot use the image of the container, {path:?}")]
    Image { path: PathBuf, source: io::Error },
    #[error("whoever started it has left")]
    Abandoned,
    #[error("cannot serve the client")]
    Client(#[source] io::Error),
}

impl RequestError {
    /// The exit code of a command that failed so.
    pub fn code(&self) -> u8 {
        use koya_proto::error::ErrorKind;
        let kind = match self {
            Self::Room(StartRoomError::Agent(error)) => error.kind(),
            _ => None,
        };
        match kind {
            Some(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING) => 127,
            Some(ErrorKind::ERROR_KIND_NOT_EXECUTABLE) => 126,
            _ => FAILED,
        }
    }
}
