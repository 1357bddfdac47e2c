//! Threads that a host may refuse: under a limit of processes there may be no room for another one.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::error::RuntimeError;

/// Enough for every command, and less than a huge page: where the host makes huge pages by itself, a larger stack that happens
/// to be aligned would be one from its first byte on.
const STACK: usize = 512 << 10;

/// Starts a thread.
///
/// # Errors
/// Those of `pthread_create(3)`; `work` is dropped then, with all that it owns.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work)
}

/// For [`Result::map_err`].
pub fn refused(error: io::Error) -> RuntimeError {
    RuntimeError::System("start a thread", error)
}
