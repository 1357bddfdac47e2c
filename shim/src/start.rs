//! `start`: containerd wants the address of a shim for the container whose bundle is the working folder. Containers of one
//! pod have one.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use koya_sandbox::sockets;

use crate::args::Args;
use crate::bundle::Bundle;
use crate::error::TaskError;
use crate::place;
use crate::runtime::Runtime;

/// Finds or starts a shim; its address.
///
/// # Errors
/// [`TaskError`]
pub fn start(args: &Args) -> Result<String, TaskError> {
    // A shim that cannot work would only be gone.
    Runtime::program()?;
    let bundle = env::current_dir().map_err(TaskError::system("find the working folder"))?;
    // Without a configuration nothing will be created, and whoever tries is told why.
    let config = Bundle::read(&bundle).ok();
    let pod = config.as_ref().and_then(Bundle::pod);
    let socket = place::socket(&args.address, &args.namespace, pod.unwrap_or(&args.id));
    let address = format!("unix://{}", socket.display());
    let folder = socket.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .map_err(TaskError::file("make", folder))?;
    // Two containers of a pod may come at the same time.
    let _held = place::lock(&socket)?;
    if UnixStream::connect(&socket).is_err() {
        launch(args, &socket)?;
    }
    write_address(&bundle, &address)?;
    Ok(address)
}

/// Starts a shim that listens at `socket` from the beginning.
fn launch(args: &Args, socket: &Path) -> Result<(), TaskError> {
    let listener = sockets::listen(socket).map_err(TaskError::file("listen at", socket))?;
    fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(TaskError::file("protect", socket))?;
    let program = env::current_exe().map_err(TaskError::system("find this program"))?;
    let child = Command::new(&program)
        .args([
            "-namespace",
            &args.namespace,
            "-id",
            &args.id,
            "-address",
            &args.address,
        ])
        .arg("-socket")
        .arg(socket)
        // The listener is its input: whoever connects meanwhile waits.
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    match child {
        Ok(_) => Ok(()),
        Err(error) => {
            let _ = fs::remove_file(socket);
            Err(TaskError::file("run", &program)(error))
        }
    }
}

/// Writes the address where containerd looks for it after a restart: whole or not at all.
fn write_address(bundle: &Path, address: &str) -> Result<(), TaskError> {
    let (file, unfinished) = (bundle.join("address"), bundle.join(".address"));
    fs::write(&unfinished, address)
        .and_then(|()| fs::rename(&unfinished, &file))
        .map_err(TaskError::file("write", &file))
}
