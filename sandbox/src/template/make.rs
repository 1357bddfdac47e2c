//! Makes a template: boots a microVM until its agent has called, pauses it, and keeps what it is.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use koya_api::client::{Client, ClientError};
use koya_api::http::Method;
use serde_json::{Value, json};

use super::{MEMORY, SNAPSHOT, boot_args};
use crate::parts::Parts;
use crate::sandbox::{API, PATIENCE, SandboxSpec, StartError, Vmm, config};
use crate::sockets;

/// What the guest does once its agent has called, it does in the template, and not in each fork.
const SETTLING: Duration = Duration::from_millis(100);
/// How long the VMM may take to write the guest's memory.
const WRITING: Duration = Duration::from_secs(120);

/// There is no template.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    /// A microVM to make it of does not come up.
    #[error("its microVM does not come up")]
    Start(#[from] StartError),
    /// The VMM cannot be asked.
    #[error("cannot ask its VMM")]
    Api(#[from] ClientError),
    /// The VMM refused.
    #[error("its VMM refuses {path}: {message}")]
    Refused {
        /// What it was asked.
        path: &'static str,
        /// What it said.
        message: String,
    },
    /// Its folder cannot be written.
    #[error("cannot write {path:?}")]
    Folder {
        /// What in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl MakeError {
    fn folder(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Folder { path, source }
    }
}

/// Makes `template` by way of the folder `new`, of which nothing is left.
pub(super) fn make(
    parts: &Parts,
    spec: &SandboxSpec,
    shared: &Path,
    new: &Path,
    template: &Path,
    abandoned: &impl Fn() -> bool,
    spawned: impl FnOnce(u32),
) -> Result<(), MakeError> {
    // Whoever made it had the lock, and has died.
    clear(new).map_err(MakeError::folder(new))?;
    let made = freeze(parts, spec, shared, new, abandoned, spawned)
        .and_then(|()| fs::rename(new, template).map_err(MakeError::folder(template)));
    // Nobody forks what has no name; the next to make one tries again to remove it.
    let _ = clear(new);
    made
}

/// Boots a microVM in a new folder, and leaves nothing there but what it is.
fn freeze(
    parts: &Parts,
    spec: &SandboxSpec,
    shared: &Path,
    folder: &Path,
    abandoned: &impl Fn() -> bool,
    spawned: impl FnOnce(u32),
) -> Result<(), MakeError> {
    DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .map_err(MakeError::folder(folder))?;
    let initramfs = parts.initramfs(shared).map_err(StartError::from)?;
    let config = config::template(parts, spec, &initramfs, &boot_args())?;
    let (mut vmm, call) = Vmm::start(&parts.vmm, folder, &config, None)?;
    spawned(vmm.pid());
    // The guest waits for the end of this connection, which is in another life.
    let _stream = vmm.await_call(&call, PATIENCE, abandoned)?;
    thread::sleep(SETTLING);
    let (_open, socket) = sockets::address(&folder.join(API)).map_err(MakeError::folder(folder))?;
    let mut api = Client::connect(&socket, WRITING)?;
    ask(&mut api, Method::Patch, "/vm", &json!({ "state": "Paused" }))?;
    let files = json!({ "snapshot_path": SNAPSHOT, "mem_file_path": MEMORY });
    ask(&mut api, Method::Put, "/snapshot/create", &files)?;
    // Before the connection ends.
    vmm.end();
    drop(call);
    for entry in fs::read_dir(folder).map_err(MakeError::folder(folder))?.flatten() {
        if ![SNAPSHOT, MEMORY].map(Some).contains(&entry.file_name().to_str()) {
            // It is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn ask(api: &mut Client, method: Method, path: &'static str, body: &Value) -> Result<(), MakeError> {
    let answer = api.request(method, path, Some(&body.to_string()))?;
    match answer.is_success() {
        true => Ok(()),
        false => Err(MakeError::Refused {
            path,
            message: answer
                .fault_message()
                .unwrap_or_else(|| format!("status {}", answer.status)),
        }),
    }
}

/// Removes a folder, if there is one.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
