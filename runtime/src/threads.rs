//! Threads that a host may refuse: under a limit of processes there may be no room for another one.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::error::RuntimeError;

/// Starts a thread.
///
/// # Errors
/// Those of `pthread_create(3)`; `work` is dropped then, with all that it owns.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// For [`Result::map_err`].
pub fn refused(error: io::Error) -> RuntimeError {
    RuntimeError::System("start a thread", error)
}
