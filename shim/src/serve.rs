//! A shim's life: it serves until containerd says that it is over.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use koya_sandbox::resident::small_pages;

use crate::args::Args;
use crate::error::TaskError;
use crate::generated::task_ttrpc::create_task;
use crate::publish::Publisher;
use crate::reaper::Reaper;
use crate::runtime::Runtime;
use crate::task::Tasks;
use crate::{log, place};

/// How long the last events may take: containerd may be gone, too.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// How long the answer to the last call may take.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Serves at the socket that is this process's input.
///
/// # Errors
/// [`TaskError`]
pub fn serve(args: &Args) -> Result<(), TaskError> {
    small_pages();
    let listener = take_listener().map_err(TaskError::system("take over the socket"))?;
    log::open(Path::new("log"));
    // The bundle may be removed while other containers of the pod are served.
    let _ = env::set_current_dir("/");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(TaskError::system("become the parent of strays"))?;
    let reaper = Reaper::start().map_err(TaskError::system("start a thread"))?;
    let runtime = Runtime::find(place::states(&args.namespace), reaper)?;
    let events = env::var("TTRPC_ADDRESS").unwrap_or_default();
    let publisher =
        Publisher::start(&events, &args.namespace).map_err(TaskError::system("start a thread"))?;
    let tasks = Arc::new(Tasks::new(runtime, publisher.clone()));
    let methods = create_task(Arc::clone(&tasks) as Arc<_>);
    let failed = |error: ttrpc::Error| TaskError::System("serve", io::Error::other(error));
    let mut server = ttrpc::Server::new()
        .add_listener(listener.into_raw_fd())
        .map_err(failed)?
        .register_service(methods);
    server.start().map_err(failed)?;
    tasks.await_end();
    // At once: whoever looks for a shim from now on starts another one.
    if let Some(socket) = &args.socket {
        let _ = fs::remove_file(socket);
    }
    publisher.flush(LAST_EVENTS);
    thread::sleep(LAST_ANSWER);
    // Calls that wait for nothing any more end with it.
    std::process::exit(0);
}

/// Takes the listener from the standard input, which is nothing from then on.
fn take_listener() -> io::Result<OwnedFd> {
    let listener = rustix::stdio::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(listener)
}
