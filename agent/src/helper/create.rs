//! Creates and starts containers by libcontainer.
//!
//! Its errors cross processes as text that leaves out their causes. It reports
//! those as events, where they happen; see [`Causes`].

use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;

use super::causes::Causes;
use super::identity::limit;
use super::program::{Program, failure_of};
use super::room::Room;
use super::{Failure, Kind, Outcome};

/// Creates a container whose first process waits to be started.
pub fn create(id: String, bundle: PathBuf, root: PathBuf, console: Option<PathBuf>, room: Room) -> Outcome {
    let program = Program::new(room)?;
    let process = program.process().clone();
    // Without them, an error is told as far as libcontainer tells it.
    let causes = Causes::collect().ok();
    let config = bundle.join("config.json");
    let failed = |error: LibcontainerError| {
        let mut failure = failure_of("create the container", &error);
        if failure.kind == Kind::Runtime
            && let Some(cause) = causes.as_ref().and_then(Causes::first)
        {
            failure.message = format!("cannot create the container: {cause}");
        }
        match error {
            LibcontainerError::InvalidSpec(_) => failure.kind = Kind::Invalid,
            // It does not say which, and may have failed for another reason.
            _ if failure.message.contains("procfs") => {
                failure = unknown_parameter(&config).unwrap_or(failure)
            }
            _ => {}
        }
        failure
    };
    let container = ContainerBuilder::new(id, SyscallType::default())
        .with_root_path(root)
        .map_err(failed)?
        .with_console_socket(console)
        .with_executor(program)
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(failed)?;
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    // From outside, where raising a limit is allowed, and when nothing of ours is left that a
    // small one could stop.
    limit(&process, pid)?;
    Ok((u32::try_from(pid).unwrap_or_default(), None))
}

/// Has the first process of a container run its program.
pub fn start(folder: &Path) -> Outcome {
    let failed = |error: LibcontainerError| failure_of("start the container", &error);
    let mut container = Container::load(folder.to_path_buf()).map_err(failed)?;
    container.start().map_err(failed)?;
    Ok((0, None))
}

/// The first kernel parameter of `config.json` that this kernel does not have.
fn unknown_parameter(config: &Path) -> Option<Failure> {
    let spec = Spec::load(config).ok()?;
    let named = spec.linux().as_ref()?.sysctl().as_ref()?;
    // Of interfaces there are others in the container's namespace than here; names with slashes have dots of their own.
    let is_everywheres = |name: &&String| [".conf.", ".neigh.", "/"].iter().all(|part| !name.contains(part));
    let mut unknown: Vec<_> = named
        .keys()
        .filter(is_everywheres)
        .filter(|name| !Path::new("/proc/sys").join(name.replace('.', "/")).exists())
        .collect();
    unknown.sort();
    let name = unknown.first()?;
    Some(Failure::new(
        Kind::Invalid,
        format!(
            "config.json: linux.sysctl names {name:?}, which the guest's kernel does not have; leave it out"
        ),
    ))
}
