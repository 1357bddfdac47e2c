//! `koya stop`, `kill` and `rm`: for several containers, each on its own.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::client::ProcessId;
use koya_sandbox::instance::{Instances, State, Status};

use crate::args::{KillArgs, RmArgs, StopArgs};
use crate::error::CliError;
use crate::home::{Home, agent_of};

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// How long the end of a killed container may take.
const END: Duration = Duration::from_secs(20);

/// `koya stop`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn stop(args: &StopArgs) -> Result<ExitCode, CliError> {
    let patience = Duration::from_secs(args.time);
    each(&args.containers, |containers, state| {
        if state.status != Status::Running {
            return Ok(());
        }
        let agent = agent_of(containers, state)?;
        let first: ProcessId = state.id.as_str().into();
        // It may have ended meanwhile; the wait finds out.
        let _ = agent.signal(&first, SIGTERM);
        if !has_stopped(containers, state, patience) {
            let _ = agent.signal(&first, SIGKILL);
        }
        await_end(containers, state)
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
        if args.force && state.status == Status::Running {
            // An agent that does not answer cannot keep its microVM from being removed.
            let _ = agent_of(containers, state)
                .and_then(|agent| Ok(agent.signal(&state.id.as_str().into(), SIGKILL)?));
            await_end(containers, state)?;
        }
        match containers.find(&state.id) {
            // One that was run with --rm is gone by now.
            Err(_) if args.force => Ok(()),
            _ => Ok(containers.remove(state)?),
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

fn await_end(containers: &Instances, state: &State) -> Result<(), CliError> {
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
            .find(&state.id)
            .map_or(true, |now| now.status == Status::Stopped)
        {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
