//! Ends of processes. A shim is the parent of the programs that it runs, and of the processes that stand for containers,
//! which those programs leave behind; all of them end here.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use koya_sandbox::resident::any_pages;

/// Ends that nobody has asked for yet. Beyond the programs that run at the same time, only strays are in it.
const MAX_UNCLAIMED: usize = 1024;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and its signal.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

impl Exit {
    /// As of now.
    pub fn now(status: u32) -> Self {
        Self {
            status,
            at: SystemTime::now(),
        }
    }
}

/// A moment, before which ends are those of others that had the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Mark(u64);

type Watcher = Box<dyn FnOnce(Exit) + Send>;

#[derive(Default)]
struct Ends {
    count: u64,
    unclaimed: VecDeque<(Mark, u32, Exit)>,
    watchers: HashMap<u32, Watcher>,
    /// Whether there may be a child.
    children: bool,
}

impl Ends {
    fn claim(&mut self, pid: u32, since: Mark) -> Option<Exit> {
        let mut known = self.unclaimed.iter();
        let index = known.position(|(mark, known, _)| *known == pid && *mark > since)?;
        self.unclaimed.remove(index).map(|(_, _, exit)| exit)
    }
}

/// Waits for all children of this process.
#[derive(Default)]
pub struct Reaper {
    ends: Mutex<Ends>,
    changed: Condvar,
    /// Held while a process is made: what fails to start is waited for by whoever started it.
    making: Mutex<()>,
}

impl Reaper {
    /// Begins. There must be no other one, and no child may be waited for elsewhere.
    ///
    /// # Errors
    /// Those of `pthread_create(3)`.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let own = Arc::clone(&reaper);
        thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || own.work())?;
        Ok(reaper)
    }

    /// Now.
    pub fn mark(&self) -> Mark {
        Mark(self.ends().count)
    }

    /// Starts a program; its pid.
    ///
    /// # Errors
    /// Those of `fork(2)` and `execve(2)`.
    pub fn spawn(&self, command: &mut Command) -> io::Result<u32> {
        // A guest's memory is better off in huge pages.
        // SAFETY: between fork and exec the closure makes one system call, and touches no memory but a flag.
        unsafe {
            command.pre_exec(|| {
                any_pages();
                Ok(())
            });
        }
        let child = {
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            command.spawn()?
        };
        self.ends().children = true;
        self.changed.notify_all();
        Ok(child.id())
    }

    /// Does something while no process is made, which would have open files for a moment.
    #[cfg(test)]
    pub fn undisturbed<T>(&self, act: impl FnOnce() -> T) -> T {
        let _making = self.making.lock().unwrap();
        act()
    }

    /// Waits for the end of a child that was started after `since`; none when `patience` is over.
    pub fn wait(&self, pid: u32, since: Mark, patience: Duration) -> Option<Exit> {
        let begun = Instant::now();
        let mut ends = self.ends();
        loop {
            if let Some(exit) = ends.claim(pid, since) {
                return Some(exit);
            }
            let left = patience.checked_sub(begun.elapsed())?;
            let waited = self.changed.wait_timeout(ends, left);
            ends = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Calls `watcher` when a child that was started after `since` ends, or at once if it has.
    pub fn watch(&self, pid: u32, since: Mark, watcher: impl FnOnce(Exit) + Send + 'static) {
        let mut ends = self.ends();
        match ends.claim(pid, since) {
            Some(exit) => {
                drop(ends);
                watcher(exit);
            }
            None => _ = ends.watchers.insert(pid, Box::new(watcher)),
        }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            match next() {
                Ok(pid) => {
                    // Whoever makes it may be waiting for it.
                    let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
                    let status = reap(pid);
                    drop(making);
                    if let (Some(status), Ok(pid)) = (status, u32::try_from(pid)) {
                        self.ended(pid, Exit::now(status));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // None is left: a stray's parent would be a child as well.
                Err(_) => self.await_child(),
            }
        }
    }

    fn await_child(&self) {
        let mut ends = self.ends();
        while !ends.children {
            ends = self.changed.wait(ends).unwrap_or_else(PoisonError::into_inner);
        }
        ends.children = false;
    }

    fn ended(&self, pid: u32, exit: Exit) {
        let mut ends = self.ends();
        ends.count = ends.count.wrapping_add(1);
        if let Some(watcher) = ends.watchers.remove(&pid) {
            drop(ends);
            return watcher(exit);
        }
        if ends.unclaimed.len() >= MAX_UNCLAIMED {
            ends.unclaimed.pop_front();
        }
        let mark = Mark(ends.count);
        ends.unclaimed.push_back((mark, pid, exit));
        self.changed.notify_all();
    }
}

/// Waits until a child has ended, and leaves it as it is; its pid.
fn next() -> io::Result<libc::pid_t> {
    // SAFETY: a siginfo of zeroes is one; it lives through the call, which fills it.
    let (result, info) = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        let flags = libc::WEXITED | libc::WNOWAIT;
        (libc::waitid(libc::P_ALL, 0, &raw mut info, flags), info)
    };
    match result {
        // SAFETY: waitid has filled in a child's.
        0 => Ok(unsafe { info.si_pid() }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a child that has ended; none if somebody else has.
fn reap(pid: libc::pid_t) -> Option<u32> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } != pid {
        return None;
    }
    let code = match libc::WIFSIGNALED(status) {
        true => libc::WTERMSIG(status).saturating_add(128),
        false => libc::WEXITSTATUS(status),
    };
    u32::try_from(code).ok()
}
