//! `koya stop`, `kill` and `rm`: for several containers, each on its own.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::client::ProcessId;
use koya_sandbox::instance::{Instances, State, Status};

use crate::args::{KillArgs, RmArgs, StopArgs};
use crate::error::CliError;
use crate::home::{Home, agent_of};

const SIGKILL: u32 = 9;
/// How long a process that was killed may take to end, with what it wrote last.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a killed container may take.
const END: Duration = Duration::from_secs(20);

/// `koya stop`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn stop(args: &StopArgs) -> Result<ExitCode, CliError> {
    let patience = Duration::from_secs(args.time);
    each(&args.containers, |containers, state| {
        if state.status == Status::Stopped {
            return Ok(());
        }
        // One that boots has nothing to stop yet.
        if let Ok(agent) = agent_of(containers, state) {
            let first: ProcessId = state.id.as_str().into();
            // It may have ended meanwhile; the wait finds out.
            let _ = agent.signal(&first, state.stop_signal);
            if has_stopped(containers, state, patience) {
                return Ok(());
            }
            let _ = agent.signal(&first, SIGKILL);
        }
        end(containers, state)
    })
}

/// `koya kill`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn kill(args: &KillArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |containers, state| {
        Ok(agent_of(containers, state)?.signal(&state.id.as_str().into(), args.signal)?)
    })
}

/// `koya rm`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn rm(args: &RmArgs) -> Result<ExitCode, CliError> {
    each(&args.containers, |containers, state| {
        if args.force && state.status != Status::Stopped {
            containers.kill_vmm(state);
            end(containers, state)?;
        }
        // One that was run with --rm is gone by now.
        match containers.look(&state.id) {
            None => Ok(()),
            Some(_) => Ok(containers.remove(state)?),
        }
    })
}

/// Does something for each container and prints its name, or what went wrong; the exit code is 1 if anything did.
fn each(
    names: &[String],
    act: impl Fn(&Instances, &State) -> Result<(), CliError>,
) -> Result<ExitCode, CliError> {
    let containers = Home::find()?.containers()?;
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let done = containers
            .find(name)
            .map_err(CliError::from)
            .and_then(|state| act(&containers, &state));
        match done {
            Ok(()) => crate::print(name)?,
            Err(error) => {
                crate::complain(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Waits for the end of a container that was killed, and ends its microVM if that does not come.
fn end(containers: &Instances, state: &State) -> Result<(), CliError> {
    if has_stopped(containers, state, GRACE) {
        return Ok(());
    }
    containers.kill_vmm(state);
    match has_stopped(containers, state, END) {
        true => Ok(()),
        false => Err(CliError::Lingers(state.name.clone())),
    }
}

/// Waits until a container has stopped, or is gone.
fn has_stopped(containers: &Instances, state: &State, patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        if containers
            .look(&state.id)
            .is_none_or(|now| now.status == Status::Stopped)
        {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
