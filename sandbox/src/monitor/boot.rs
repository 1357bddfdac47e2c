//! What a microVM boots with.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::ends::one_line;
use super::output::complain;
use super::outside::{Outside, OutsideError};
use super::server::Monitor;
use super::slots::Slots;
use crate::parts::Parts;
use crate::sandbox::{Progress, Sandbox, SandboxSpec, StartError};
use crate::scratch::{self, ScratchError};
use crate::settings::Settings;
use crate::state::{Container, Records, Vm};
use crate::timeline::Timeline;

/// The disk that takes what containers write, in the microVM's folder.
const SCRATCH: &str = "scratch.ext4";

/// A microVM does not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    #[error("cannot prepare the disks of the microVM")]
    Disks(#[source] io::Error),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Prepare(#[from] OutsideError),
    #[error("{0}")]
    Outside(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Boots a microVM whose first container is `container`, unless `client` leaves meanwhile. A guest that gives up by itself
/// has a second chance.
pub(super) fn boot(
    records: &Records,
    shared: &Path,
    parts: &Parts,
    vm: Vm,
    container: &Container,
    client: &UnixStream,
) -> Result<Monitor, BootError> {
    let attempt = |vm, forks| boot_once(records, shared, parts, vm, container, client, forks);
    match attempt(vm.clone(), may_fork()) {
        Err(BootError::Start(error)) if error.is_by_chance() => {
            complain(&format!("{}; it is booted once more", one_line(&error)));
            attempt(vm, false)
        }
        outcome => outcome,
    }
}

fn boot_once(
    records: &Records,
    shared: &Path,
    parts: &Parts,
    mut vm: Vm,
    container: &Container,
    client: &UnixStream,
    forks: bool,
) -> Result<Monitor, BootError> {
    let timeline = Timeline::default();
    timeline.mark("monitor begins");
    let folder = records.vm_folder(&vm.id);
    let scratch = scratch(shared, &folder, vm.settings.storage)?;
    let mut outside = Outside::prepare(records, &folder, &vm, container)?;
    timeline.mark("host is prepared");
    let image = records.image(&container.id);
    let slots = Slots::new(&folder, vm.settings.rooms);
    let spec = SandboxSpec {
        vcpus: vm.settings.vcpus,
        memory_mib: vm.settings.memory_mib,
        disks: slots.disks(&image, scratch).map_err(BootError::Disks)?,
        share: outside.share(),
        network: outside.network_of(container),
        templates: forks,
    };
    vm.monitor_pid = Some(std::process::id());
    // Nobody waits for it who has left.
    let abandoned = || has_left(client);
    let sandbox = thread::scope(|scope| {
        scope.spawn(|| outside.attach_early(container));
        // Without it the microVM runs all the same; only a hung one is then harder to end.
        let mut note = |pid| {
            vm.vmm_pid = Some(pid);
            let _ = records.save_vm(&vm);
        };
        Sandbox::start(
            parts,
            &spec,
            &folder,
            shared,
            abandoned,
            |progress| match progress {
                Progress::TemplateBegun(pid) => note(pid),
                Progress::TemplateMade => timeline.mark("template is made"),
                Progress::NoTemplate(reason) => complain(&reason),
                Progress::Spawned(pid) => {
                    timeline.mark("VMM is started");
                    note(pid);
                }
                Progress::Forked => timeline.mark("guest is forked"),
            },
        )
    });
    match sandbox {
        Ok(sandbox) => {
            timeline.mark("agent answers");
            Ok(Monitor::new(records, sandbox, slots, outside, vm, timeline))
        }
        Err(source) => {
            // What it has of the host goes with it.
            Err(match outside.complaint() {
                Some(complaint) => BootError::Outside(complaint),
                None => source.into(),
            })
        }
    }
}

/// Whether the operator lets microVMs go on from templates. One who cannot be understood does not.
fn may_fork() -> bool {
    Settings::read().map_or_else(
        |error| {
            let error = one_line(&error);
            complain(&format!("{error}; the microVM boots without template"));
            false
        },
        |settings| settings.templates,
    )
}

/// The microVM's scratch disk, made unless it is there. One that was not finished is made anew.
fn scratch(shared: &Path, folder: &Path, size: u64) -> Result<PathBuf, BootError> {
    let path = folder.join(SCRATCH);
    if !path.exists() {
        let unfinished = path.with_extension("new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(BootError::Disks(error)),
            _ => {}
        }
        scratch::provide(shared, &unfinished, size)?;
        fs::rename(&unfinished, &path).map_err(BootError::Disks)?;
    }
    Ok(path)
}

/// Whether the other end of a socket has been closed.
pub(super) fn has_left(client: &UnixStream) -> bool {
    let mut fds = [PollFd::new(client, PollFlags::RDHUP)];
    let none = rustix::event::Timespec::default();
    poll(&mut fds, Some(&none)).is_ok()
        && fds.iter().any(|fd| {
            fd.revents()
                .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
        })
}
