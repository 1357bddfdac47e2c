//! `koya stop`, `kill`, `rm` and others: for several containers, each on its own.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::client::ProcessId;
use koya_sandbox::monitor::{self, Connection, Event};
use koya_sandbox::state::{Container, Records, Status};

use crate::args::{ContainersArgs, KillArgs, RmArgs, StopArgs};
use crate::error::CliError;
use crate::home::{Home, agent_of};
use crate::run;

const SIGKILL: u32 = 9;
/// How long a process that was killed may take to end, with what it wrote last.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a killed container may take.
const END: Duration = Duration::from_secs(20);
/// Between two looks at a container that is to end.
const PAUSE: Duration = Duration::from_millis(10);

/// `koya stop`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn stop(args: &StopArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |records, container| {
        stop_one(records, container, args.time)
    })
}

/// `koya restart`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn restart(args: &StopArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |records, container| {
        stop_one(records, container, args.time)?;
        run::start_detached(records, container)
    })
}

fn stop_one(records: &Records, container: &Container, time: Option<u64>) -> Result<(), CliError> {
    if !container.is_active() {
        return Ok(());
    }
    records.ask_to_stay(container)?;
    let Some(container) = &run::woken(records, container) else {
        return Ok(());
    };
    let patience = Duration::from_secs(time.unwrap_or(container.settings.stop_timeout));
    // One that boots has nothing to stop yet.
    if let Ok(agent) = agent_of(records, container) {
        let first: ProcessId = container.id.as_str().into();
        if container.status == Status::Paused {
            let _ = agent.resume(&container.id);
        }
        // It may have ended meanwhile; the wait finds out.
        let _ = agent.signal(&first, container.settings.stop_signal);
        if has_stopped(records, container, patience) {
            return Ok(());
        }
        let _ = agent.signal(&first, SIGKILL);
    }
    end(records, container)
}

/// `koya kill`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn kill(args: &KillArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |records, container| {
        // Other signals may mean anything to it.
        if [SIGKILL, container.settings.stop_signal].contains(&args.signal) {
            records.ask_to_stay(container)?;
        }
        match run::woken(records, container) {
            Some(container) => {
                Ok(agent_of(records, &container)?.signal(&container.id.as_str().into(), args.signal)?)
            }
            None => Ok(()),
        }
    })
}

/// `koya pause`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn pause(args: &ContainersArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |records, container| {
        freeze(records, container, true)
    })
}

/// `koya unpause`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn unpause(args: &ContainersArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |records, container| {
        freeze(records, container, false)
    })
}

fn freeze(records: &Records, container: &Container, frozen: bool) -> Result<(), CliError> {
    match container.is_active() {
        true => Ok(monitor::freeze(records, container, frozen)?),
        false => Err(CliError::NotRunning(container.name.clone())),
    }
}

/// `koya wait`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn wait(args: &ContainersArgs) -> Result<ExitCode, CliError> {
    let records = Home::find()?.records()?;
    let mut code = ExitCode::SUCCESS;
    for name in &args.containers {
        match records.find(name) {
            Ok(container) => crate::print(&wait_for(&records, container).to_string())?,
            Err(error) => {
                crate::complain(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The exit code of a container, once it has ended.
fn wait_for(records: &Records, mut container: Container) -> u8 {
    // Of one that is removed at its end, only its monitor can tell.
    if let Ok(connection) = monitor::attach(records, &container) {
        let mut buffer = Connection::buffer();
        loop {
            match connection.next_event(&mut buffer) {
                Event::Exit(exit) => return exit.code,
                Event::Lost => break,
                _ => {}
            }
        }
    }
    while container.is_active() {
        thread::sleep(PAUSE);
        match records.look(&container.id) {
            Some(now) => container = now,
            None => return 0,
        }
    }
    container.exit.map_or(0, |exit| exit.code)
}

/// `koya rm`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn rm(args: &RmArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |records, container| {
        remove(records, container, args.force)
    })
}

/// Removes a container; with `force`, whatever it does.
///
/// # Errors
/// [`CliError`]
pub fn remove(records: &Records, container: &Container, force: bool) -> Result<(), CliError> {
    if container.is_active() {
        if !force {
            return Err(CliError::Runs(container.name.clone()));
        }
        records.ask_to_stay(container)?;
        if is_alone(records, container)? {
            records.kill_vmm(&container.vm);
            end(records, container)?;
        }
    }
    let begun = Instant::now();
    loop {
        // One that was run with --rm is gone by now.
        let Some(now) = records.look(&container.id) else {
            return Ok(());
        };
        if monitor::remove(records, &now, force)? {
            return Ok(());
        }
        if let Some(_lock) = records.lock_vm(&now.vm)? {
            return Ok(records.forget(&now)?);
        }
        if begun.elapsed() >= END {
            return Err(CliError::Lingers(now.name));
        }
        // Its monitor goes down, or has not begun to listen.
        thread::sleep(PAUSE);
    }
}

/// Whether nobody else runs in the microVM of a container.
fn is_alone(records: &Records, container: &Container) -> Result<bool, CliError> {
    let mut all = records.list()?.into_iter();
    Ok(!all.any(|other| other.vm == container.vm && other.id != container.id && other.is_active()))
}

/// Does something for each container and prints its name, or what went wrong; the exit code is 1 if anything did.
pub fn each(
    names: &[String],
    act: impl Fn(&Records, &Container) -> Result<(), CliError> + Sync,
) -> Result<ExitCode, CliError> {
    let records = Home::find()?.records()?;
    let mut code = ExitCode::SUCCESS;
    // All at once: the last one need not wait for the patience that the others take.
    let done: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = names
            .iter()
            .map(|name| {
                let (records, act) = (&records, &act);
                scope.spawn(move || {
                    let container = records.find(name)?;
                    act(records, &container)
                })
            })
            .collect();
        running.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for (name, done) in names.iter().zip(done) {
        match done {
            Ok(Ok(())) => crate::print(name)?,
            Ok(Err(error)) => {
                crate::complain(&error);
                code = ExitCode::FAILURE;
            }
            Err(_) => code = ExitCode::FAILURE,
        }
    }
    Ok(code)
}

/// Waits for the end of a container that was killed, and ends its microVM if that does not come.
fn end(records: &Records, container: &Container) -> Result<(), CliError> {
    if has_stopped(records, container, GRACE) {
        return Ok(());
    }
    if is_alone(records, container)? {
        records.kill_vmm(&container.vm);
        if has_stopped(records, container, GRACE) {
            return Ok(());
        }
        records.kill_monitor(&container.vm);
    }
    match has_stopped(records, container, END) {
        true => Ok(()),
        false => Err(CliError::Lingers(container.name.clone())),
    }
}

/// Waits until a container has stopped, or is gone.
fn has_stopped(records: &Records, container: &Container, patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        if records.look(&container.id).is_none_or(|now| !now.is_active()) {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        thread::sleep(PAUSE);
    }
}
