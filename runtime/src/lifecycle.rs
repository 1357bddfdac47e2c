//! `start`, `state`, `kill`, `delete`, `pause` and `resume`.

use std::thread;
use std::time::{Duration, Instant};

use koya_sandbox::{Kind, signals};
use rustix::process::Signal;

use crate::args::{DeleteArgs, KillArgs};
use crate::cgroup::Cgroup;
use crate::control::{Request, Told, ask};
use crate::error::RuntimeError;
use crate::record::{Process, Record, Status, TakenOver};
use crate::{Context, hooks, house, print};

/// How long a container may take to end that was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the process that an engine waits for may take to pass on how its container ended.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(10);

/// `start`
///
/// # Errors
/// [`RuntimeError`]
pub fn start(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let record = context.store.load(id)?;
    want(&record, &[Status::Created], "created", "started")?;
    ask(&context.store.folder(id), id, &Request::Start)?;
    let mut state = record;
    state.status = Status::Running;
    // As the specification says, the program is not stopped because of them.
    hooks::tell_all("poststart", &state.hooks.poststart, &state.state(), &context.log);
    Ok(())
}

/// `state`
///
/// # Errors
/// [`RuntimeError`]
pub fn state(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let state = context.store.load(id)?.state();
    print(&format!("{state:#}"))
}

/// `kill`
///
/// # Errors
/// [`RuntimeError`]
pub fn kill(context: &Context, args: &KillArgs) -> Result<(), RuntimeError> {
    let signal = signals::parse(&args.signal)?;
    let record = context.store.load(&args.id)?;
    let alive = [Status::Created, Status::Running, Status::Paused];
    want(&record, &alive, "created or running", "sent a signal")?;
    let request = Request::Kill {
        signal,
        all: args.all,
    };
    match ask(&context.store.folder(&args.id), &args.id, &request) {
        // It ended while it was asked: what is gone needs no SIGKILL any more.
        Err(RuntimeError::Gone(_)) if request.kills() && context.store.await_end(&args.id, LAST_STEPS) => {
            Ok(())
        }
        result => result.map(drop),
    }
}

/// `pause`
///
/// # Errors
/// [`RuntimeError`]
pub fn pause(context: &Context, id: &str) -> Result<(), RuntimeError> {
    want(&context.store.load(id)?, &[Status::Running], "running", "paused")?;
    ask(&context.store.folder(id), id, &Request::Pause).map(drop)
}

/// `resume`
///
/// # Errors
/// [`RuntimeError`]
pub fn resume(context: &Context, id: &str) -> Result<(), RuntimeError> {
    want(&context.store.load(id)?, &[Status::Paused], "paused", "resumed")?;
    ask(&context.store.folder(id), id, &Request::Resume).map(drop)
}

/// `delete`
///
/// # Errors
/// [`RuntimeError`]
pub fn delete(context: &Context, args: &DeleteArgs) -> Result<(), RuntimeError> {
    match remove(context, &args.id, args.force) {
        Err(RuntimeError::Unknown(_)) if args.force => Ok(()),
        result => result,
    }
}

/// Removes a container with all that belongs to it.
///
/// # Errors
/// [`RuntimeError`]
pub fn remove(context: &Context, id: &str, force: bool) -> Result<(), RuntimeError> {
    let record = match context.store.load(id) {
        Ok(record) => record,
        // Nobody knows what it was; whoever keeps it holds its lock.
        Err(RuntimeError::Unreadable(..)) if force && !context.store.is_alive(id) => {
            return context.store.remove(id);
        }
        Err(error) => return Err(error),
    };
    if !force {
        // One that has not been started has nothing to lose.
        want(&record, &[Status::Stopped, Status::Created], "stopped", "deleted")?;
    }
    // Whoever ends tells the engine how it was, and clears up: that is not torn apart.
    if record.status == Status::Stopped && context.store.await_end(id, PATIENCE) {
        await_processes(record.process.as_slice(), LAST_STEPS);
    }
    // Those that are left over of one that was killed, too.
    for process in record.process.iter().chain(&record.helpers) {
        process.signal(Signal::KILL);
    }
    if !context.store.await_end(id, PATIENCE) {
        let message = format!(
            "container '{id}' was killed and has not ended after {} s",
            PATIENCE.as_secs()
        );
        return Err(Told::new(Kind::Late, message).into());
    }
    // A microVM's memory takes its time to be given back; until then its processes are in the container's cgroup.
    await_processes(&record.helpers, PATIENCE);
    let mut stopped = record;
    stopped.status = Status::Stopped;
    clear(context, &stopped);
    Ok(())
}

/// Waits until processes have ended; whether they have.
pub fn await_processes(processes: &[Process], patience: Duration) -> bool {
    let begun = Instant::now();
    while processes.iter().any(Process::is_there) {
        if begun.elapsed() >= patience {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// Removes what is left of a container without processes, and tells those who want to know.
pub fn clear(context: &Context, record: &Record) {
    if let Err(error) = house::forget(&context.store, record) {
        context.log.warn(&error.one_line());
    }
    if let Some(Err(error)) = record.network.as_ref().map(TakenOver::give_back) {
        context.log.warn(&error.one_line());
    }
    if let Some(Err(error)) = record.cgroup.as_ref().map(Cgroup::remove) {
        context.log.warn(&error.one_line());
    }
    if let Err(error) = context.store.remove(&record.id) {
        context.log.warn(&error.one_line());
    }
    hooks::tell_all("poststop", &record.hooks.poststop, &record.state(), &context.log);
}

/// Refuses what the lifecycle does not allow.
///
/// # Errors
/// [`RuntimeError::State`]
pub fn want(
    record: &Record,
    possible: &[Status],
    wanted: &'static str,
    verb: &'static str,
) -> Result<(), RuntimeError> {
    match possible.contains(&record.status) {
        true => Ok(()),
        false => Err(RuntimeError::State {
            id: record.id.clone(),
            status: record.status,
            wanted,
            verb,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_on_its_way_out_is_waited_for_and_what_stays_is_not() {
        // Lives until its input ends.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let processes = [Process::of(child.id()).unwrap()];
        assert!(!await_processes(&processes, Duration::from_millis(1)));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                drop(input);
            });
            assert!(await_processes(&processes, Duration::from_secs(20)));
        });
        child.wait().unwrap();
    }
}
