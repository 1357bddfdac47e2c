//! `create` and `run`.
//!
//! ```text
//!  create                  stand-in                         monitor
//!    ├─ checks, folder, lock
//!    ├─ fork ────────────────► network namespace, cgroup
//!    │ ◄──────────────── ready ─┤
//!    ├─ hooks                   │
//!    ├─ go ────────────────────►├─ fork ──────────────────────► files, VMM, agent: create
//!    │                          ├─ the container's view           │
//!    │ ◄──────────────────────────────────────── created, failed ─┤
//!    └─ pid file                └─ waits, passes signals on       └─ until the container ends
//! ```

mod stand_in;
mod view;

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use koya_sandbox::bundle::{Network, Plan};
use koya_sandbox::parts::Parts;
use koya_sandbox::settings::Settings;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use signal_hook::iterator::Signals;

pub use stand_in::{fork_here, wait as stand_for};

use crate::args::{CreateArgs, RunArgs};
use crate::cgroup::Cgroup;
use crate::control::{Told, receive, send};
use crate::error::RuntimeError;
use crate::record::{Process, Record, Status, TakenOver};
use crate::store::Lock;
use crate::streams::Own;
use crate::{Context, console, hooks, house, lifecycle, signal, threads};

/// How long what has been killed may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the processes of a creation tell each other.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// The stand-in has its namespace: hooks may look at it.
    Ready,
    /// They have.
    Go,
    /// The container is created.
    Created,
    /// It is not.
    Failed(Told),
}

/// All that a stand-in and a monitor need.
pub struct Birth {
    /// Where and how.
    pub context: Context,
    /// What the container is.
    pub plan: Plan,
    /// As it is at first.
    pub record: Record,
    /// Its streams on this side.
    pub own: Own,
    /// Where the parts of a microVM are.
    pub parts: Parts,
    /// Whether the microVM may go on from a template.
    pub templates: bool,
    /// The program that serves files.
    pub virtiofsd: PathBuf,
    /// The socket to `create`.
    pub creator: UnixStream,
    /// The container's lock, held by whoever has this.
    pub lock: Lock,
}

/// `create`; the process that stands for the container, a child of this one.
///
/// # Errors
/// [`RuntimeError`]; nothing is left then.
pub fn create(context: &Context, args: &CreateArgs) -> Result<Pid, RuntimeError> {
    let bundle = bundle(&args.bundle)?;
    let settings = Settings::read()?;
    let mut plan = Plan::read(&bundle, &args.id, &house::neighbours(&context.store), &settings)?;
    if plan.terminal && args.console_socket.is_none() {
        return Err(RuntimeError::NoConsoleSocket);
    }
    if !plan.terminal && args.console_socket.is_some() {
        return Err(RuntimeError::NoTerminal);
    }
    context.log.left_out(&plan.left_out);
    context.log.no_descriptors(args.preserve_fds);
    let (parts, virtiofsd) = (
        Parts::find_with(settings.kernel.as_deref())?,
        Parts::find_virtiofsd()?,
    );
    let whole = record(context, &args.id, &plan)?;
    let mut record = whole.clone();
    // Until systemd has made it, one of that name is another's.
    record.cgroup = record.cgroup.filter(|cgroup| matches!(cgroup, Cgroup::Folder(_)));
    let cgroup = whole.cgroup.clone();
    let lock = context.store.make(&record)?;
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => {
            return give_up(
                context,
                &record,
                None,
                RuntimeError::System("make a socket", error),
            );
        }
    };
    let own = match &args.console_socket {
        None => Own::Standard,
        Some(socket) => match console::open(socket, plan.terminal_size) {
            Ok(slave) => Own::Terminal(slave),
            Err(error) => return give_up(context, &record, None, error),
        },
    };
    let placed = plan
        .make_places()
        .and_then(|()| plan.place_overlays(&context.store.folder(&args.id)));
    if let Err(error) = placed {
        return give_up(context, &record, None, error.into());
    }
    let birth = Birth {
        context: context.clone(),
        plan,
        record: whole,
        own,
        parts,
        templates: settings.templates,
        virtiofsd,
        creator: theirs,
        lock,
    };
    let pid = match stand_in::fork(birth, ours.try_clone().ok()) {
        Ok(pid) => pid,
        Err(error) => return give_up(context, &record, None, error),
    };
    match accompany(context, &mut record, cgroup, pid, &ours, args.pid_file.as_deref()) {
        Ok(()) => Ok(pid),
        Err(error) => {
            drop(ours);
            give_up(context, &record, Some(pid), error)
        }
    }
}

/// The bundle's folder, by the path that states have of it.
fn bundle(folder: &Path) -> Result<PathBuf, RuntimeError> {
    let failed = |source| RuntimeError::NoBundle {
        path: folder.to_owned(),
        source,
    };
    let bundle = fs::canonicalize(folder).map_err(failed)?;
    match bundle.to_str() {
        Some(_) => Ok(bundle),
        None => Err(failed(io::Error::other("its path is not UTF-8, which JSON is"))),
    }
}

/// Sees a stand-in through to a created container.
fn accompany(
    context: &Context,
    record: &mut Record,
    cgroup: Option<Cgroup>,
    pid: Pid,
    stand_in: &UnixStream,
    pid_file: Option<&Path>,
) -> Result<(), RuntimeError> {
    let gone = |_| RuntimeError::Gone(record.id.clone());
    let hear = || match receive(stand_in).map_err(gone)? {
        Word::Failed(told) => Err(RuntimeError::from(told)),
        _ => Ok(()),
    };
    let process = Process::of(pid.as_raw_nonzero().get().cast_unsigned());
    hear()?;
    record.cgroup = cgroup;
    let mut known = record.clone();
    known.process = process;
    context.store.save(&known)?;
    let state = known.state();
    for (kind, list) in [
        ("prestart", &known.hooks.prestart),
        ("createRuntime", &known.hooks.create_runtime),
        ("createContainer", &known.hooks.create_container),
    ] {
        hooks::run_all(kind, list, &state)?;
    }
    send(stand_in, &Word::Go).map_err(gone)?;
    hear()?;
    *record = known;
    match pid_file {
        None => Ok(()),
        Some(path) => write_pid(path, pid),
    }
}

/// Writes a pid where somebody waits for it: whole or not at all.
pub fn write_pid(path: &Path, pid: Pid) -> Result<(), RuntimeError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}"));
    fs::write(&unfinished, pid.as_raw_nonzero().get().to_string())
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(RuntimeError::file("write", path))
}

/// Removes what there is of a container that cannot be created.
fn give_up<T>(
    context: &Context,
    record: &Record,
    stand_in: Option<Pid>,
    error: RuntimeError,
) -> Result<T, RuntimeError> {
    if let Some(pid) = stand_in {
        // It ends by itself when it has failed; when a hook has, it waits.
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
        context.store.await_end(&record.id, PATIENCE);
        // Those that its monitor wrote down, and that die with it.
        let known = context.store.load(&record.id);
        lifecycle::await_processes(&known.map(|known| known.helpers).unwrap_or_default(), PATIENCE);
    }
    lifecycle::clear(context, record);
    Err(error)
}

fn record(context: &Context, id: &str, plan: &Plan) -> Result<Record, RuntimeError> {
    // The root of the tree is where everybody is.
    let cgroup = plan.cgroup.as_ref().filter(|name| *name != "/").map(|name| {
        let cgroup = Cgroup::named(name, context.systemd_cgroup);
        cgroup.ok_or_else(|| RuntimeError::Cgroup(name.clone()))
    });
    let network = match (&plan.network, &plan.house) {
        (Network::Of(path), None) => TakenOver::of(path),
        _ => None,
    };
    Ok(Record {
        oci_version: plan.version.clone(),
        id: id.to_owned(),
        status: Status::Creating,
        process: None,
        helpers: Vec::new(),
        server: None,
        house: plan.house.clone(),
        served: plan.served_as.clone(),
        memory: Some(plan.memory.clone()),
        bundle: plan.bundle.clone(),
        rootfs: plan.root.clone(),
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        owner: rustix::process::geteuid().as_raw(),
        annotations: plan.annotations.clone(),
        hooks: plan.hooks.clone(),
        first: plan.config.get("process").cloned().unwrap_or(Value::Null),
        cgroup: cgroup.transpose()?,
        network,
    })
}

/// `run`: creates a container, starts it, and stays until it has ended.
///
/// # Errors
/// [`RuntimeError`]
pub fn run(context: &Context, args: &RunArgs) -> Result<ExitCode, RuntimeError> {
    let id = &args.create.id;
    let pid = create(context, &args.create)?;
    if let Err(error) = lifecycle::start(context, id) {
        let _ = lifecycle::remove(context, id, true);
        return Err(error);
    }
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = pass_on(pid) {
        let _ = lifecycle::remove(context, id, true);
        return Err(error);
    }
    let code = wait(pid)?;
    if !args.keep {
        lifecycle::remove(context, id, true)?;
    }
    Ok(ExitCode::from(code))
}

/// Passes this process's signals on to another.
fn pass_on(pid: Pid) -> Result<(), RuntimeError> {
    let mut signals = Signals::new(signal::passed_on()).map_err(RuntimeError::system("take signals"))?;
    let work = move || {
        for number in signals.forever() {
            // SAFETY: kill takes two numbers and touches no memory.
            unsafe { libc::kill(pid.as_raw_nonzero().get(), number) };
        }
    };
    threads::spawn("signals", work)
        .map(drop)
        .map_err(threads::refused)
}

/// Waits for a child's end; its exit code, or 128 and its signal.
pub fn wait(pid: Pid) -> Result<u8, RuntimeError> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(code_of(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(RuntimeError::System("wait for a child", errno.into())),
        }
    }
}

/// An exit code as a shell has it.
pub fn code_of(status: WaitStatus) -> u8 {
    let signal = status
        .terminating_signal()
        .map(|signal| signal.saturating_add(128));
    let code = signal.or(status.exit_status()).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}
