//! Every child of this process, in one place.
//!
//! One thread reaps: children that were spawned here or claimed, whose status
//! it keeps and whose waiters it wakes, and orphans that the kernel hands to
//! PID 1 (or to a subreaper), which nobody waits for.
//!
//! A pid belongs to its process until it is reaped, and it is reaped under the
//! child's lock; so a signal sent under that lock never hits a stranger.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::error::StartError;
use crate::sys::{Deadline, lock};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The exit code, or 128 + signal.
    pub code: u8,
    /// The signal that ended it, or 0.
    pub signal: u8,
    /// When, in nanoseconds since 1970.
    pub at_ns: i64,
}

impl Ended {
    fn now(status: i32) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        // Exit codes have 8 bits, signals are 1 to 64.
        let (code, signal) = if libc::WIFEXITED(status) {
            (u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX), 0)
        } else {
            let signal = u8::try_from(libc::WTERMSIG(status)).unwrap_or(0);
            (signal.saturating_add(128), signal)
        };
        Self { code, signal, at_ns }
    }
}

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Life {
    ended: Option<Ended>,
    actions: Vec<Action>,
}

/// One child, alive or ended.
pub struct Child {
    pid: Pid,
    life: Mutex<Life>,
    changed: Condvar,
    event: EventFd,
}

impl Child {
    fn new(pid: Pid) -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self {
            pid,
            life: Mutex::default(),
            changed: Condvar::new(),
            event,
        }))
    }

    /// Its pid, which it has until it is reaped.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.pid.as_raw()).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        lock(&self.life).ended
    }

    /// Waits for its end.
    pub fn wait(&self, deadline: Deadline) -> Option<Ended> {
        let mut life = lock(&self.life);
        while life.ended.is_none() {
            life = match deadline.left() {
                None => self
                    .changed
                    .wait(life)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(left) if left.is_zero() => return None,
                Some(left) => match self.changed.wait_timeout(life, left) {
                    Ok((life, _)) => life,
                    Err(poisoned) => poisoned.into_inner().0,
                },
            };
        }
        life.ended
    }

    /// Readable from its end on, for poll.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Has something done when it ends, or now if it has.
    pub fn on_end(&self, action: impl FnOnce() + Send + 'static) {
        let mut life = lock(&self.life);
        if life.ended.is_none() {
            life.actions.push(Box::new(action));
        } else {
            drop(life);
            action();
        }
    }

    /// Sends a signal; false if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        let life = lock(&self.life);
        if life.ended.is_some() {
            return Ok(false);
        }
        raw_kill(self.pid, signal)?;
        Ok(true)
    }

    /// Takes its end from `reap`, if there is one already.
    fn end(&self, reap: impl FnOnce() -> Option<Ended>) {
        let mut life = lock(&self.life);
        life.ended = reap();
        if life.ended.is_none() {
            return;
        }
        let actions = std::mem::take(&mut life.actions);
        drop(life);
        // An eventfd that has never been written to takes a 1.
        let _ = self.event.write(1);
        self.changed.notify_all();
        for action in actions {
            action();
        }
    }
}

/// kill(2) for any signal number, real-time ones too, which nix's enum lacks.
fn raw_kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill on two plain numbers touches no memory.
    match unsafe { libc::kill(pid.as_raw(), signal) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The pid of any child that has ended and has not been reaped; waits for one.
/// (nix's waitid refuses children that a real-time signal ended.)
fn ended_child() -> io::Result<Pid> {
    // SAFETY: an all-zero siginfo_t is a valid one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a siginfo_t that lives through the call.
    match unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: waitid has filled in what a child's end has, si_pid too.
        _ => Ok(Pid::from_raw(unsafe { info.si_pid() })),
    }
}

/// Reaps a child that has ended.
fn reap(pid: Pid) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let reaped = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) };
    (reaped == pid.as_raw()).then(|| Ended::now(status))
}

/// Sends a signal to a process that is not known as a [`Child`].
pub fn signal_stranger(pid: i32, signal: i32) -> io::Result<()> {
    raw_kill(Pid::from_raw(pid), signal)
}

#[derive(Default)]
struct Registry {
    watched: HashMap<Pid, Arc<Child>>,
    /// Ends of unknown children, kept while somebody may still claim them.
    unclaimed: HashMap<Pid, Ended>,
    claims: usize,
}

/// The registry and its reaper.
#[derive(Clone)]
pub struct Children {
    shared: Arc<(Mutex<Registry>, Condvar)>,
}

impl Children {
    /// Starts the reaper; orphaned descendants become children of this process.
    pub fn start() -> Result<Self, StartError> {
        nix::sys::prctl::set_child_subreaper(true).map_err(StartError::errno("become a subreaper"))?;
        let children = Self {
            shared: Arc::default(),
        };
        let reaper = children.clone();
        thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || reaper.reap_forever())
            .map_err(StartError::io("start the reaper"))?;
        Ok(children)
    }

    /// Spawns a command as a child to be waited for here, not by its `Child`.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Arc<Child>> {
        let (registry, changed) = &*self.shared;
        // Locked until the pid is known: the reaper may see it end before.
        let mut registry = lock(registry);
        let spawned = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(spawned.id()).unwrap_or_default());
        let child = Child::new(pid)?;
        registry.watched.insert(pid, Arc::clone(&child));
        changed.notify_all();
        Ok(child)
    }

    /// Announces that children which are not known yet may be claimed: as long
    /// as this lives, no orphan's end is forgotten.
    pub fn claiming(&self) -> Claiming<'_> {
        let mut registry = lock(&self.shared.0);
        registry.claims = registry.claims.saturating_add(1);
        Claiming { children: self }
    }

    fn reap_forever(&self) {
        loop {
            match ended_child() {
                Ok(pid) => self.reap(pid),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => self.await_children(),
                // EINTR, and nothing else that could be repaired.
                Err(_) => {}
            }
        }
    }

    /// There are no children. A spawn wakes this; so does time, for children
    /// that came some other way.
    fn await_children(&self) {
        let (registry, changed) = &*self.shared;
        let _ = changed.wait_timeout(lock(registry), Duration::from_secs(1));
    }

    fn reap(&self, pid: Pid) {
        let mut registry = lock(&self.shared.0);
        if let Some(child) = registry.watched.remove(&pid) {
            drop(registry);
            child.end(|| reap(pid));
        } else if let Some(ended) = reap(pid)
            && registry.claims > 0
        {
            registry.unclaimed.insert(pid, ended);
        }
    }
}

/// See [`Children::claiming`].
pub struct Claiming<'a> {
    children: &'a Children,
}

impl Claiming<'_> {
    /// Takes a process that is, or becomes when its parent ends, a child of ours.
    pub fn claim(&self, pid: u32) -> io::Result<Arc<Child>> {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap_or_default());
        let child = Child::new(pid)?;
        let mut registry = lock(&self.children.shared.0);
        let gone = kill(pid, None) == Err(Errno::ESRCH);
        match registry.unclaimed.remove(&pid) {
            // It has been reaped; if its pid lives, another process has it now.
            Some(ended) if gone => {
                drop(registry);
                child.end(|| Some(ended));
            }
            _ => {
                registry.watched.insert(pid, Arc::clone(&child));
                self.children.shared.1.notify_all();
            }
        }
        Ok(child)
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        let mut registry = lock(&self.children.shared.0);
        registry.claims = registry.claims.saturating_sub(1);
        if registry.claims == 0 {
            registry.unclaimed.clear();
        }
    }
}
