//! `delete`: a shim is dead, and containerd wants nothing left of a container that it served.

use std::env;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use protobuf::Message;

use crate::args::Args;
use crate::error::TaskError;
use crate::generated::task::DeleteResponse;
use crate::reaper::{Exit, Reaper};
use crate::runtime::{Runtime, silent};
use crate::task::rootfs;
use crate::{mounts, place, time};

/// As a container ends whose shim was killed: as if by SIGKILL.
const KILLED: u32 = 137;

/// Removes what is left of a container; the answer.
///
/// # Errors
/// [`TaskError`]
pub fn delete(args: &Args) -> Result<Vec<u8>, TaskError> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => env::current_dir().map_err(TaskError::system("find the working folder"))?,
    };
    let reaper = Reaper::start().map_err(TaskError::system("start a thread"))?;
    let runtime = Runtime::find(place::states(&args.namespace), reaper)?;
    let deleted = runtime.run(&bundle, &["delete", "--force", &args.id], silent());
    mounts::unmount_all(&rootfs(&bundle));
    remove_socket(&bundle);
    deleted?;
    let answer = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(time::stamp(Exit::now(KILLED).at)).into(),
        ..Default::default()
    };
    answer
        .write_to_bytes()
        .map_err(|error| TaskError::System("write the answer", error.into()))
}

/// Removes the socket of the shim that served the bundle, if nobody listens there.
fn remove_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else {
        return;
    };
    let path = Path::new(address.trim().trim_start_matches("unix://"));
    // Another container of the pod may start a shim there at the same time.
    let Ok(_held) = place::lock(path) else { return };
    if UnixStream::connect(path).is_err() {
        let _ = fs::remove_file(path);
    }
}
