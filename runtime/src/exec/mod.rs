//! `exec`: another process in a container. It has a process of the host of its own, which the engine may wait for and
//! signal, and which talks to the agent itself.

mod process;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use koya_proto::client::{AgentClient, ProcessId};
use koya_proto::stream::Token;
use koya_proto::v1::ExecRequest;
use koya_sandbox::{Kind, stdio};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use signal_hook::iterator::Signals;

use crate::args::{Command, ExecArgs};
use crate::control::{receive, send};
use crate::create::{Word, fork_here, stand_for, wait, write_pid};
use crate::descriptors::Inherited;
use crate::error::RuntimeError;
use crate::record::Status;
use crate::streams::Own;
use crate::{Context, console, house, signal, threads};

/// As a process ends whose microVM is gone: as if by SIGKILL.
const KILLED: u8 = 137;
/// The signal for a process that nobody will know of, and how long telling it may take.
const KILL: u32 = libc::SIGKILL.cast_unsigned();
const KILLING: Duration = Duration::from_secs(5);

/// A process that is to run.
struct Job {
    vsock: PathBuf,
    id: ProcessId,
    process: Value,
    own: Own,
}

/// `exec`
///
/// # Errors
/// [`RuntimeError`]
pub fn exec(context: &Context, args: &ExecArgs) -> Result<ExitCode, RuntimeError> {
    let record = context.store.load(&args.id)?;
    if record.status != Status::Running {
        return Err(RuntimeError::State {
            id: record.id,
            status: record.status,
            wanted: "running",
            verb: "exec'd into",
        });
    }
    context.log.no_descriptors(args.preserve_fds);
    let (process, checked) = process::of(args, &record.first)?;
    context.log.left_out(&checked.left_out);
    let own = match (&args.console_socket, checked.terminal) {
        (None, false) => Own::Standard,
        (Some(socket), true) => Own::Terminal(console::open(socket, checked.size)?),
        (None, true) => return Err(RuntimeError::NoConsoleSocket),
        (Some(_), false) => return Err(RuntimeError::NoTerminal),
    };
    let name = Token::random().map_err(RuntimeError::system("find a name for the process"))?;
    let name: String = name.to_field().iter().map(|byte| format!("{byte:02x}")).collect();
    let job = Job {
        vsock: house::door(&context.store, &record),
        id: ProcessId::exec(&record.id, name),
        process,
        own,
    };
    if args.detach {
        return detach(job, args, context.inherited.clone());
    }
    if let Some(path) = &args.pid_file {
        write_pid(path, rustix::process::getpid())?;
    }
    job.run(|| ()).map(ExitCode::from)
}

/// Leaves a process that stands for the other one. The work is done by a child of it, which sees to it that nothing goes on
/// in the guest when whoever waits for the process has killed it: nobody could tell it any more.
fn detach(job: Job, args: &ExecArgs, inherited: Inherited) -> Result<ExitCode, RuntimeError> {
    let (vsock, id) = (job.vsock.clone(), job.id.clone());
    let (ours, theirs) = UnixStream::pair().map_err(RuntimeError::system("make a socket"))?;
    let Some(pid) = fork_here()? else {
        drop(ours);
        inherited.close();
        std::process::exit(stand_in(job, theirs).into());
    };
    drop((theirs, job));
    match receive(&ours) {
        Ok(Word::Failed(told)) => return Err(told.into()),
        Ok(_) => {}
        Err(error) => return Err(RuntimeError::System("start a process", error)),
    }
    if let Some(path) = &args.pid_file
        && let Err(error) = write_pid(path, pid)
    {
        // Nobody would ever know of it.
        let _ = house::reach(&vsock).and_then(|agent| Ok(agent.with_deadline(KILLING).signal(&id, KILL)?));
        let _ = kill_process(pid, Signal::KILL);
        let _ = wait(pid);
        return Err(error);
    }
    Ok(ExitCode::SUCCESS)
}

/// The life of the process that stands for the other one; its exit code.
fn stand_in(job: Job, creator: UnixStream) -> u8 {
    let fail = |error: &RuntimeError| {
        let _ = send(&creator, &Word::Failed(error.into()));
        1
    };
    if job.own.terminal().is_none() {
        let _ = rustix::process::setsid();
    }
    let own = rustix::process::getpid();
    let worker = match fork_here() {
        Ok(Some(worker)) => worker,
        Ok(None) => std::process::exit(
            work(job, &creator, own)
                .unwrap_or_else(|error| fail(&error))
                .into(),
        ),
        Err(error) => return fail(&error),
    };
    // The streams are the worker's alone.
    drop((job, creator));
    let _ = console::silence();
    stand_for(worker, None)
}

/// Runs the process; its exit code. `parent` stands for it.
fn work(job: Job, creator: &UnixStream, parent: Pid) -> Result<u8, RuntimeError> {
    if let Some(slave) = job.own.terminal() {
        console::take(slave)?;
    }
    let (vsock, id) = (job.vsock.clone(), job.id.clone());
    let parent = pidfd_open(parent, PidfdFlags::empty()).map_err(RuntimeError::system("watch a parent"))?;
    let watch = move |parent: Option<OwnedFd>| {
        if let Some(parent) = parent {
            while poll(&mut [PollFd::new(&parent, PollFlags::IN)], None) == Err(Errno::INTR) {}
        }
        let _ = house::reach(&vsock).and_then(|agent| Ok(agent.with_deadline(KILLING).signal(&id, KILL)?));
        std::process::exit(KILLED.into());
    };
    job.run(|| {
        if send(creator, &Word::Created).is_err() {
            // Nobody knows of it.
            return watch(None);
        }
        // A process that nobody watches runs all the same, and ends when it is told to.
        let _ = threads::spawn("parent", move || watch(Some(parent)));
    })
}

impl Job {
    /// Runs it; its exit code. `begun` is called when it runs.
    fn run(self, begun: impl FnOnce()) -> Result<u8, RuntimeError> {
        // Before there is anything that they could be meant for; they wait in a pipe.
        let signals = Signals::new(signal::passed_on()).map_err(RuntimeError::system("take signals"))?;
        let agent = house::reach(&self.vsock)?;
        let (mut named, streams) = stdio::open(&self.vsock, self.own.wanted())
            .map_err(RuntimeError::system("connect the streams"))?;
        named.hang_up = true;
        agent.exec(ExecRequest {
            id: self.id.container.clone(),
            exec_id: self.id.exec.clone(),
            process: self.process.to_string().into_bytes(),
            stdio: Some(named).into(),
            ..Default::default()
        })?;
        let own = Arc::new(self.own);
        let joined = own.connect(streams).and_then(|outputs| {
            pass_on(signals, agent.clone(), self.id.clone(), Arc::clone(&own))?;
            Ok(outputs)
        });
        let outputs = match joined {
            Ok(outputs) => outputs,
            Err(error) => {
                // Nobody would hear of it.
                let _ = agent.with_deadline(KILLING).signal(&self.id, KILL);
                return Err(error);
            }
        };
        begun();
        resize(&agent, &self.id, &own);
        let Ok(exit) = agent.wait(&self.id, None) else {
            return Ok(KILLED);
        };
        for output in outputs {
            let _ = output.join();
        }
        Ok(u8::try_from(exit.code).unwrap_or(u8::MAX))
    }
}

/// Passes this process's signals on to the other one.
fn pass_on(
    mut signals: Signals,
    agent: AgentClient,
    id: ProcessId,
    own: Arc<Own>,
) -> Result<(), RuntimeError> {
    let work = move || {
        for number in signals.forever() {
            if number == libc::SIGWINCH && own.terminal().is_some() {
                resize(&agent, &id, &own);
            } else {
                let _ = agent.signal(&id, number.cast_unsigned());
            }
        }
    };
    threads::spawn("signals", work)
        .map(drop)
        .map_err(threads::refused)
}

fn resize(agent: &AgentClient, id: &ProcessId, own: &Own) {
    let size = own.terminal().map(console::size);
    if let Some((rows, columns)) = size.filter(|size| *size != (0, 0)) {
        let _ = agent.resize(id, rows, columns);
    }
}

/// What this program ends with after an error: as a shell does where a process could not be run.
pub fn exit_code(command: &Command, error: &RuntimeError) -> u8 {
    match (command, error.kind()) {
        (Command::Exec(_) | Command::Run(_), Kind::NoProgram) => 127,
        (Command::Exec(_) | Command::Run(_), Kind::NotExecutable) => 126,
        _ => 1,
    }
}
