//! The network of containers, as the host says it is.
//!
//! ```text
//!  guest's namespace ── device with the MAC ──► container's namespace: name, MTU, addresses, routes, neighbours
//!                    ◄── when the host takes the network away, or the namespace ends, the device is back
//! ```
//!
//! A container's namespace is entered by threads that end with what they do there.

mod apply;
mod dial;
mod names;
mod netlink;
mod plan;

use std::fs::File;
use std::thread;
use std::time::Duration;

use koya_proto::v1::ConfigureNetworkRequest;
use nix::sched::{CloneFlags, setns};

pub use dial::dial;
pub use names::serve as serve_names;

use crate::containers::Containers;
use crate::error::{Result, runtime, state};
use crate::sys::Deadline;
use crate::windows;
use plan::Plan;

/// How long a device may take to come back from a container that has just ended.
const RETURN: Duration = Duration::from_secs(5);
/// Between two looks for it.
const PAUSE: Duration = Duration::from_millis(10);

/// Gives a container, or the guest itself, its network.
pub fn configure(
    containers: &Containers,
    request: &ConfigureNetworkRequest,
    deadline: Deadline,
) -> Result<()> {
    let plan = Plan::parse(request)?;
    let guest = own_namespace()?;
    let target = if request.id.is_empty() {
        own_namespace()?
    } else {
        namespace_of(containers, &request.id)?
    };
    inside(&target, || apply::remove_routes(&plan.gone.routes))?;
    for &mac in &plan.gone.interfaces {
        inside(&target, || apply::send(mac, &guest))?;
    }
    let until = Deadline::after(deadline.left().unwrap_or(RETURN).min(RETURN));
    let mut looked = false;
    for interface in &plan.interfaces {
        while !inside(&target, || apply::is_here(interface))?
            && !inside(&guest, || apply::send(interface.mac, &target))?
        {
            if !looked {
                // It may have come after the boot.
                windows::look_again();
                looked = true;
                continue;
            }
            if until.passed() {
                return Err(state(format!(
                    "the guest has no network device with the MAC {}",
                    interface.mac
                )));
            }
            thread::sleep(PAUSE);
        }
    }
    inside(&target, || apply::set_up(&plan))
}

fn own_namespace() -> Result<File> {
    let path = "/proc/self/ns/net";
    File::open(path).map_err(runtime("open the guest's network namespace"))
}

/// The network namespace of a container's first process.
fn namespace_of(containers: &Containers, id: &str) -> Result<File> {
    let container = containers.get(id)?;
    let gone = || state(format!("container '{id}' has ended, and its network with it"));
    let opened = File::open(format!("/proc/{}/ns/net", container.init().pid()));
    // Only as long as it lives, the pid is its own.
    if container.init().ended().is_some() {
        return Err(gone());
    }
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => gone(),
        _ => runtime(format!("open the network namespace of container '{id}'"))(error),
    })
}

/// Does something in a network namespace.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = || runtime("enter a network namespace");
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned());
        let worker = worker.spawn_scoped(scope, || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed()(errno.into()))?;
            work()
        });
        let outcome = worker.map_err(failed())?.join();
        outcome.unwrap_or_else(|_| Err(failed()(std::io::Error::other("its thread died"))))
    })
}
