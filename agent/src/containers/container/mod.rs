//! One container, from created to removed.

mod exec;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use koya_proto::v1::{self, CreateRequest, Exit, Status};
use protobuf::{EnumOrUnknown, MessageField};

use crate::children::{Child, Ended};
use crate::containers::cgroup::{Cgroup, is_unified};
use crate::containers::config::{Config, Draft};
use crate::containers::devices;
use crate::containers::halt;
use crate::containers::idmap::{IdMap, Shift};
use crate::containers::limits;
use crate::containers::process::check_signal;
use crate::containers::rootfs::Bundle;
use crate::containers::{Ground, Process};
use crate::error::{Result, deadline as passed, invalid, not_found, runtime, state, storage};
use crate::files;
use crate::helper::{Call, Filter, Identity, Request, Room, map};
use crate::streams::{Console, Stdio};
use crate::sys::{Deadline, lock};
use exec::Exec;
use std::sync::Arc;

/// Tells the first process of the container with an id.
pub type Others<'a> = &'a dyn Fn(&str) -> Result<u32>;

/// What can be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Running,
    Paused,
    /// Being removed, or half removed.
    Removing,
}

/// A container.
pub struct Container {
    id: String,
    phase: Mutex<Phase>,
    bundle: Mutex<Bundle>,
    bundle_path: String,
    system: bool,
    filter: Filter,
    cgroup: Cgroup,
    init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Exec>>,
    next_exec: AtomicU64,
}

/// What a container needs before its first process is made.
struct Ready {
    cgroup: Cgroup,
    config: Config,
    shift: Option<Shift>,
    bundle: Bundle,
}

impl Ready {
    /// Finishes the configuration and mounts the files.
    fn make(
        ground: &Ground,
        request: &CreateRequest,
        draft: Draft,
        others: Others<'_>,
        deadline: Deadline,
    ) -> Result<Self> {
        let cgroup = Cgroup::of(&ground.cgroup, &request.id);
        let bundle = ground.bundles.join(&request.id);
        let mut config = draft.finish(cgroup.name(), others)?;
        let shift = config
            .id_map()
            .map(|map| Shift::new(map, &ground.children, deadline))
            .transpose()?;
        crate::shares::mount_all(&request.shares, deadline)?;
        let bundle = Bundle::make(bundle, request.root.get_or_default(), shift.as_ref())?;
        config.set_root(bundle.root());
        config.place_stores(|at| bundle.store(at, shift.as_ref()))?;
        let owner = config.id_map().map_or(Ok((0, 0)), IdMap::root)?;
        config.add_mounts(files::place(&request.files, bundle.path(), owner)?);
        if config.id_map().is_some_and(IdMap::has_several) {
            map::place(bundle.path()).map_err(|error| storage("prepare the user namespace", error))?;
        }
        fs::write(bundle.path().join("config.json"), config.to_bytes())
            .map_err(|error| storage("write config.json", error))?;
        Ok(Self {
            cgroup,
            config,
            shift,
            bundle,
        })
    }
}

impl Container {
    /// Makes a container whose first process waits to be started. `others` tells the first process of another one.
    pub fn create(
        ground: &Ground,
        request: &CreateRequest,
        others: Others<'_>,
        deadline: Deadline,
    ) -> Result<Self> {
        if !is_unified() {
            return Err(runtime("find the cgroup v2 tree at /sys/fs/cgroup")(
                std::io::Error::from_raw_os_error(libc::ENOENT),
            ));
        }
        let id = request.id.clone();
        let draft = Draft::parse(&request.config)?;
        // Before anything that takes time: the host has connected the streams already,
        // and one whose token nobody claims is closed after a while.
        let (stdio, ends) = Stdio::prepare(&ground.broker, request.stdio.get_or_default(), draft.terminal())?;
        let Ready {
            cgroup,
            config,
            shift,
            bundle,
        } = Ready::make(ground, request, draft, others, deadline)?;
        let console = config
            .terminal()
            .then(|| Console::listen(bundle.path()))
            .transpose()?;
        let claiming = ground.children.claiming();
        let job = Request::Create {
            id: id.clone(),
            bundle: bundle.path().to_path_buf(),
            root: ground.runtime.clone(),
            console: console.as_ref().map(|console| console.path().to_path_buf()),
            room: Box::new(Room {
                process: config.process().clone(),
                identity: Identity {
                    user: request.user.clone(),
                    filter: config.filter().clone(),
                },
                changes: config.changes().to_vec(),
                system: config.system(),
                init: request.init,
            }),
        };
        let call = Call {
            children: &ground.children,
            request: &job,
            ends: Some(ends),
            deadline,
        };
        // Whatever fails from here on, the runtime may have begun something.
        let init = call.run().and_then(|done| {
            if !config.devices().is_empty() {
                devices::restrict(cgroup.path(), config.devices())?;
            }
            if let Some(shift) = &shift {
                cgroup.delegate(shift.root)?;
            }
            let terminal = console.map(Console::accept).transpose()?;
            let child = claiming.claim(done.pid).map_err(runtime("watch the container"))?;
            connect(child, stdio, terminal, 0)
        });
        let init = match init {
            Ok(init) => init,
            Err(error) => {
                let _ = clean_up(ground, &id, &cgroup, Deadline::after(CLEAN_UP));
                return Err(error);
            }
        };
        Ok(Self {
            id,
            phase: Mutex::new(Phase::Created),
            bundle_path: bundle.path().to_string_lossy().into_owned(),
            system: config.system(),
            bundle: Mutex::new(bundle),
            cgroup,
            init,
            execs: Mutex::default(),
            next_exec: AtomicU64::new(0),
            filter: config.filter().clone(),
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its first process.
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// Its first process's number, as long as that has namespaces.
    pub fn first_process(&self) -> Result<u32> {
        match self.init.ended() {
            None => Ok(self.init.pid()),
            Some(_) => Err(state(format!(
                "container '{}' is stopped, and nothing can be shared with it any more",
                self.id
            ))),
        }
    }

    /// A process of it; an empty name is the first one's.
    pub fn process(&self, exec: &str) -> Result<Arc<Process>> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let process = lock(&self.execs).get(exec).and_then(|exec| exec.process.clone());
        process.ok_or_else(|| not_found(format!("no process '{exec}' in container '{}'", self.id)))
    }

    /// Has its first process run its program.
    pub fn start(&self, ground: &Ground, deadline: Deadline) -> Result<()> {
        let mut phase = lock(&self.phase);
        self.want(*phase, Status::STATUS_CREATED, "started")?;
        let job = Request::Start {
            id: self.id.clone(),
            root: ground.runtime.clone(),
        };
        Call {
            children: &ground.children,
            request: &job,
            ends: None,
            deadline,
        }
        .run()?;
        *phase = Phase::Running;
        Ok(())
    }

    /// Sends a signal to one process, or to all.
    pub fn signal(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        if !all {
            let process = self.process(exec)?;
            if self.system && exec.is_empty() && signal == halt::SYSTEMD {
                return process.signal(halt::signal_for(process.pid()));
            }
            return process.signal(signal);
        }
        if !exec.is_empty() {
            return Err(invalid(
                "all is set, and so is exec_id; a signal goes to one process or to all",
            ));
        }
        self.cgroup.signal_all(check_signal(signal)?)
    }

    /// Freezes it.
    pub fn pause(&self, deadline: Deadline) -> Result<()> {
        let mut phase = lock(&self.phase);
        self.want(*phase, Status::STATUS_RUNNING, "paused")?;
        if let Err(error) = self.cgroup.freeze(true, deadline) {
            let _ = self.cgroup.freeze(false, Deadline::after(CLEAN_UP));
            return Err(error);
        }
        *phase = Phase::Paused;
        Ok(())
    }

    /// Thaws it.
    pub fn resume(&self, deadline: Deadline) -> Result<()> {
        let mut phase = lock(&self.phase);
        self.want(*phase, Status::STATUS_PAUSED, "resumed")?;
        self.cgroup.freeze(false, deadline)?;
        *phase = Phase::Running;
        Ok(())
    }

    /// Gives it new limits.
    pub fn update(&self, resources: &[u8]) -> Result<()> {
        // Held, so that it is not removed meanwhile.
        let phase = lock(&self.phase);
        if self.status(*phase) == Status::STATUS_STOPPED {
            return Err(state(format!(
                "container '{}' is stopped, and has no limits any more",
                self.id
            )));
        }
        limits::update(&self.cgroup, resources)
    }

    /// What it uses.
    pub fn stats(&self) -> v1::StatsResponse {
        self.cgroup.stats()
    }

    /// Removes all there is of it, with `purge` what it wrote to its scratch disk,
    /// too; can be asked again when it failed.
    pub fn remove(&self, ground: &Ground, force: bool, purge: bool, deadline: Deadline) -> Result<()> {
        let mut phase = lock(&self.phase);
        let status = self.status(*phase);
        if !force && matches!(status, Status::STATUS_RUNNING | Status::STATUS_PAUSED) {
            let message = format!(
                "container '{}' is {}; stop it first, or delete it with force",
                self.id,
                word(status)
            );
            return Err(state(message));
        }
        *phase = Phase::Removing;
        clean_up(ground, &self.id, &self.cgroup, deadline)?;
        if self.init.wait_end(deadline).is_none() {
            return Err(passed(format!(
                "the deadline passed before container '{}' had ended",
                self.id
            )));
        }
        self.init.abort_streams();
        for exec in lock(&self.execs).values() {
            if let Some(process) = &exec.process {
                process.abort_streams();
            }
        }
        // Its state can be asked for while a lot is purged.
        drop(phase);
        lock(&self.bundle).remove(purge)
    }

    /// Its state as a message.
    pub fn state(&self) -> v1::ContainerState {
        let status = self.status(*lock(&self.phase));
        let ended = self.init.ended();
        let running = |exec: &Exec| {
            exec.process
                .as_ref()
                .is_some_and(|process| process.ended().is_none())
        };
        let execs = lock(&self.execs);
        let execs = execs
            .iter()
            .filter(|(_, exec)| running(exec))
            .map(|(name, _)| name.clone())
            .collect();
        v1::ContainerState {
            id: self.id.clone(),
            status: EnumOrUnknown::new(status),
            pid: if ended.is_some() { 0 } else { self.init.pid() },
            exit: MessageField::from_option(ended.map(|ended| self.exit_message(&self.init, ended))),
            bundle: self.bundle_path.clone(),
            execs,
            ..Default::default()
        }
    }

    /// How a process of it ended, as a message.
    ///
    /// `oom` says that the kernel has killed a process of the container for want of
    /// memory since this one began, this one or another: an init outlives the
    /// service that was killed, and ends later of something else.
    pub fn exit_message(&self, process: &Process, ended: Ended) -> Exit {
        // reboot(2) in a PID namespace ends its init by a signal: SIGINT for halt
        // and power-off, by which a system container ends well; SIGHUP for restart.
        if self.system && i32::from(ended.signal) == libc::SIGINT {
            let well = Ended {
                code: 0,
                signal: 0,
                ..ended
            };
            return self.exit_message(process, well);
        }
        Exit {
            code: ended.code.into(),
            signal: ended.signal.into(),
            at_ns: ended.at_ns,
            oom: self.cgroup.oom_kills() > process.oom_kills_before(),
            ..Default::default()
        }
    }

    fn status(&self, phase: Phase) -> Status {
        match phase {
            _ if self.init.ended().is_some() => Status::STATUS_STOPPED,
            Phase::Created => Status::STATUS_CREATED,
            Phase::Running => Status::STATUS_RUNNING,
            Phase::Paused => Status::STATUS_PAUSED,
            Phase::Removing => Status::STATUS_STOPPED,
        }
    }

    fn want(&self, phase: Phase, wanted: Status, verb: &str) -> Result<()> {
        let status = self.status(phase);
        if status == wanted {
            return Ok(());
        }
        Err(state(format!(
            "container '{}' is {}; only a {} one can be {verb}",
            self.id,
            word(status),
            word(wanted)
        )))
    }
}

/// How long tidying up after a failure may take.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(5);

/// Joins a new process to its streams. It is killed if that fails.
fn connect(
    child: Arc<Child>,
    stdio: Stdio,
    terminal: Option<OwnedFd>,
    oom_kills: u64,
) -> Result<Arc<Process>> {
    match stdio.connect(&child, terminal) {
        Ok(streams) => Ok(Arc::new(Process::new(child, streams, oom_kills))),
        Err(error) => {
            let _ = child.signal(libc::SIGKILL);
            Err(error)
        }
    }
}

/// Kills what runs, removes the cgroup and the runtime's own state.
fn clean_up(ground: &Ground, id: &str, cgroup: &Cgroup, deadline: Deadline) -> Result<()> {
    cgroup.remove(deadline)?;
    match fs::remove_dir_all(ground.runtime.join(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(runtime("remove the runtime's state")(error))
        }
        _ => Ok(()),
    }
}

/// A status in OCI's words.
fn word(status: Status) -> &'static str {
    match status {
        Status::STATUS_CREATING => "creating",
        Status::STATUS_CREATED => "created",
        Status::STATUS_RUNNING => "running",
        Status::STATUS_PAUSED => "paused",
        Status::STATUS_STOPPED => "stopped",
        Status::STATUS_UNSPECIFIED => "unknown",
    }
}
