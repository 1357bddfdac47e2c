//! From the start of the process to its first container.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::boot::boot;
use super::client::Program;
use super::ends::{FAILED, bury, give_up};
use super::protocol::{Answer, Request, receive, send};
use super::{SOCKET, restart};
use crate::parts::Parts;
use crate::sockets;
use crate::state::{Records, StateError, VmLock};

/// How long the last monitor of a microVM may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The monitor cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state of the microVM and its containers.
    #[error(transparent)]
    State(#[from] StateError),
    /// The first request.
    #[error("cannot read the first request")]
    Request(#[source] io::Error),
}

/// Runs the monitor of a microVM until no container is left in it. `first` is the socket of whoever started it, and says
/// which container is to be the first. What goes wrong later is told to whoever asked. Containers that are to be started
/// again when the microVM has died under them are started by another monitor, which `program` becomes.
///
/// # Errors
/// [`ServeError`]
pub fn serve(
    records: &Records,
    shared: &Path,
    parts: &Parts,
    program: &Program,
    vm: &str,
    first: UnixStream,
) -> Result<(), ServeError> {
    let Some(lock) = take(records, vm)? else {
        // Somebody else was quicker.
        let _ = send(&first, &Answer::Busy {});
        return Ok(());
    };
    let vm = records.vm(vm).ok_or_else(|| StateError::NoVm(vm.to_owned()))?;
    bury(records, &vm);
    let request: Request = receive(&first).map_err(ServeError::Request)?;
    let Request::Start { container, .. } = &request else {
        let _ = send(&first, &Answer::Busy {});
        return Ok(());
    };
    let container = match records.look(container).filter(|container| container.vm == vm.id) {
        Some(container) => container,
        None => {
            let error = StateError::Unknown(container.clone());
            let _ = send(&first, &Answer::failed(&error, FAILED));
            return Ok(());
        }
    };
    match boot(records, shared, parts, vm, &container, &first) {
        Ok(monitor) => {
            let bereft = Arc::new(monitor).run(first, request);
            if !bereft.is_empty() {
                let _waiting = records.wait_for(&container.vm)?;
                drop(lock);
                restart::start_elsewhere(records, program, bereft);
            }
        }
        Err(error) => {
            give_up(records, &container, &error, FAILED);
            drop(lock);
            let _ = send(&first, &Answer::failed(&error, FAILED));
        }
    }
    Ok(())
}

/// Takes the microVM; `None` if somebody else has it who does not end.
fn take(records: &Records, vm: &str) -> Result<Option<VmLock>, StateError> {
    let start = Instant::now();
    loop {
        if let Some(lock) = records.lock_vm(vm)? {
            return Ok(Some(lock));
        }
        // He takes requests: no use in waiting for his end.
        let serves = sockets::connect(&records.vm_folder(vm).join(SOCKET)).is_ok();
        if serves || start.elapsed() >= LOCK_PATIENCE {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
