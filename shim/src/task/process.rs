//! One process of a container: where it is in its life, and who waits for its end.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::TaskError;
use crate::generated::{events, task};
use crate::publish::Publisher;
use crate::reaper::Exit;
use crate::stdio::{Held, Wanted};
use crate::time;

/// How a process ended that never began.
const NEVER: u32 = 255;

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made.
    Creating,
    /// It is there, and does not run.
    Created,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

impl Status {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// For answers.
    pub fn to_message(self) -> task::Status {
        match self {
            Self::Creating | Self::Created | Self::Starting => task::Status::CREATED,
            Self::Running => task::Status::RUNNING,
            Self::Paused => task::Status::PAUSED,
            Self::Stopped => task::Status::STOPPED,
        }
    }
}

/// A moment of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Where it is.
    pub status: Status,
    /// The process of the host that stands for it; 0 before.
    pub pid: u32,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

struct Life {
    seen: Seen,
    /// The same process, whoever gets its number.
    handle: Option<OwnedFd>,
    held: Held,
    /// Whether nothing is typed any more; that may be known before it has streams.
    silent: bool,
    /// Whether its beginning is about to be announced, which comes before its end.
    announcing: bool,
    /// Whether something of the container was killed for want of memory.
    out_of_memory: bool,
}

impl Life {
    /// How it ended, if that has been told to all who listen for events.
    fn told(&self) -> Option<Exit> {
        self.seen.exit.filter(|_| !self.announcing)
    }
}

/// A process.
pub struct Process {
    /// The container.
    pub id: String,
    /// Empty for the container's first process.
    pub exec: String,
    /// Its streams.
    pub wanted: Wanted,
    publisher: Publisher,
    life: Mutex<Life>,
    changed: Condvar,
}

impl Process {
    /// One that is to be.
    pub fn new(id: &str, exec: &str, wanted: Wanted, publisher: Publisher) -> Self {
        let first = exec.is_empty();
        Self {
            id: id.to_owned(),
            exec: exec.to_owned(),
            wanted,
            publisher,
            life: Mutex::new(Life {
                seen: Seen {
                    status: if first { Status::Creating } else { Status::Created },
                    pid: 0,
                    exit: None,
                },
                handle: None,
                held: Held::default(),
                silent: false,
                announcing: false,
                out_of_memory: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// For messages.
    pub fn what(&self) -> String {
        match self.exec.as_str() {
            "" => format!("container '{}'", self.id),
            exec => format!("process '{exec}' of container '{}'", self.id),
        }
    }

    /// As it is now.
    pub fn seen(&self) -> Seen {
        self.life().seen
    }

    /// The host has a process for it.
    pub fn begun(&self, pid: u32, held: Held) {
        let mut life = self.life();
        life.seen.pid = pid;
        life.held = held;
        if life.silent {
            life.held.close_stdin();
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        life.handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if life.seen.status == Status::Creating {
            life.seen.status = Status::Created;
        }
    }

    /// Goes from one state to another, which is otherwise refused.
    ///
    /// # Errors
    /// [`TaskError::State`]
    pub fn go(
        &self,
        from: Status,
        to: Status,
        wanted: &'static str,
        verb: &'static str,
    ) -> Result<(), TaskError> {
        let mut life = self.life();
        if life.seen.status != from {
            return Err(self.refusal(life.seen.status, wanted, verb));
        }
        life.seen.status = to;
        life.announcing = to == Status::Starting;
        Ok(())
    }

    /// Sees to it that it runs no more, before it is deleted; as it was.
    ///
    /// # Errors
    /// [`TaskError::State`] while it runs.
    pub fn settle(&self) -> Result<Seen, TaskError> {
        let mut life = self.life();
        let seen = life.seen;
        if !matches!(seen.status, Status::Created | Status::Stopped) {
            return Err(self.refusal(seen.status, "stopped", "deleted"));
        }
        life.seen.status = Status::Stopped;
        Ok(seen)
    }

    /// The error for what its state does not allow.
    pub fn refusal(&self, is: Status, wanted: &'static str, verb: &'static str) -> TaskError {
        TaskError::State {
            what: self.what(),
            is: is.name(),
            wanted,
            verb,
        }
    }

    /// It has been started, or not; `announce` tells so. If it has ended meanwhile, that is told after it.
    pub fn started(&self, status: Status, announce: impl FnOnce()) {
        let mut life = self.life();
        if life.seen.status == Status::Starting {
            life.seen.status = status;
        }
        drop(life);
        announce();
        let mut life = self.life();
        life.announcing = false;
        if let Some(exit) = life.seen.exit {
            self.tell_end(&life, exit);
        }
        drop(life);
        self.changed.notify_all();
    }

    /// It has ended; `out_of_memory`: something of the container was killed for want of memory.
    pub fn ended(&self, exit: Exit, out_of_memory: bool) {
        let mut life = self.life();
        life.handle = None;
        // Whoever deleted it has been told another end, and waits for none.
        if life.seen.exit.is_some() {
            return;
        }
        life.seen.exit = Some(exit);
        life.seen.status = Status::Stopped;
        life.out_of_memory = out_of_memory;
        // Before anybody knows who could delete it: its end is told before that is.
        if !life.announcing {
            self.tell_end(&life, exit);
        }
        drop(life);
        self.changed.notify_all();
    }

    /// It is no more. Whoever waits for one that never began is told, too.
    pub fn forgotten(&self) {
        let mut life = self.life();
        life.seen.status = Status::Stopped;
        life.seen.exit.get_or_insert_with(|| Exit::now(NEVER));
        drop(life);
        self.changed.notify_all();
    }

    /// Waits for its end.
    pub fn wait(&self) -> Exit {
        let mut life = self.life();
        loop {
            if let Some(exit) = life.told() {
                return exit;
            }
            life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for its end, at most this long.
    pub fn wait_within(&self, patience: Duration) -> Option<Exit> {
        let life = self.life();
        let waited = self
            .changed
            .wait_timeout_while(life, patience, |life| life.told().is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.told()
    }

    /// Sends a signal to the process that stands for it, which passes it on.
    ///
    /// # Errors
    /// [`TaskError::Finished`], [`TaskError::System`]
    pub fn signal(&self, number: u32) -> Result<(), TaskError> {
        let life = self.life();
        let handle = life.handle.as_ref().ok_or(TaskError::Finished)?;
        let null = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the call takes numbers and no siginfo, and touches no memory.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), number, null, 0) };
        match std::io::Error::last_os_error() {
            _ if result == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Err(TaskError::Finished),
            error => Err(TaskError::System("send a signal", error)),
        }
    }

    /// Does something with its streams.
    pub fn with_streams<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(&mut self.life().held)
    }

    /// Nothing is typed any more, behind what has been.
    pub fn close_stdin(&self) {
        let mut life = self.life();
        life.silent = true;
        life.held.close_stdin();
    }

    /// Takes its streams away.
    pub fn take_streams(&self) -> Held {
        std::mem::take(&mut self.life().held)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_end(&self, life: &Life, exit: Exit) {
        // First, so that whoever is told of the end knows the reason.
        if life.out_of_memory {
            let event = events::TaskOOM {
                container_id: self.id.clone(),
                ..Default::default()
            };
            self.publisher.publish("/tasks/oom", "TaskOOM", &event);
        }
        let event = events::TaskExit {
            container_id: self.id.clone(),
            // The first process has the container's name in events.
            id: match self.exec.as_str() {
                "" => self.id.clone(),
                exec => exec.to_owned(),
            },
            pid: life.seen.pid,
            exit_status: exit.status,
            exited_at: Some(time::of_exit(exit.at)).into(),
            ..Default::default()
        };
        self.publisher.publish("/tasks/exit", "TaskExit", &event);
    }
}
