//! The process that stands for a container on the host: its pid is the container's to engines, which send it signals, wait
//! for it, and look at its namespaces and cgroup.
//!
//! It has the container's network namespace, and sees the container's files and no others: an engine that copies files
//! enters its mount namespace, and must find nothing of the host there. All work is the monitor's, its child, which dies
//! with it and tells it its exit code.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;

use koya_sandbox::bundle::Network;
use koya_sandbox::network::Namespace;
use koya_sandbox::resident::forget_start;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Birth, Word, code_of, view};
use crate::control::{receive, send};
use crate::error::RuntimeError;
use crate::{console, monitor};

/// The exit code of a monitor that ended in a way that cannot be told.
const UNKNOWN: u8 = 255;

/// Forks the stand-in. `creators` is the creator's end of the socket, which it closes.
///
/// # Errors
/// [`RuntimeError::System`]
pub fn fork(birth: Birth, creators: Option<UnixStream>) -> Result<Pid, RuntimeError> {
    match fork_here()? {
        Some(pid) => Ok(pid),
        None => {
            drop(creators);
            birth.context.inherited.clone().close();
            std::process::exit(live(birth).into())
        }
    }
}

/// Forks this process, which has one thread; `None` in the child.
pub fn fork_here() -> Result<Option<Pid>, RuntimeError> {
    // SAFETY: this process has one thread, so that the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(RuntimeError::System("fork", io::Error::last_os_error())),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// The stand-in's life; its exit code.
fn live(birth: Birth) -> u8 {
    let fail = |creator: &UnixStream, error: &RuntimeError| {
        let _ = send(creator, &Word::Failed(error.into()));
        1
    };
    let creator = match birth.creator.try_clone() {
        Ok(creator) => creator,
        Err(_) => return 1,
    };
    if let Err(error) = prepare(&birth) {
        return fail(&creator, &error);
    }
    if send(&creator, &Word::Ready).is_err() || !matches!(receive(&creator), Ok(Word::Go)) {
        return 1;
    }
    let stop = birth.record.stop_signal();
    match begin(birth, &creator) {
        Ok(monitor) => {
            drop(creator);
            wait(monitor, stop)
        }
        Err(error) => fail(&creator, &error),
    }
}

/// What hooks may look at.
fn prepare(birth: &Birth) -> Result<(), RuntimeError> {
    rustix::thread::set_name(c"koya-container").map_err(RuntimeError::system("take a name"))?;
    match birth.own.terminal() {
        // The monitor becomes its session's leader.
        Some(_) => {}
        None => _ = rustix::process::setsid(),
    }
    if let Some(cgroup) = &birth.record.cgroup {
        cgroup.join(&birth.context.log)?;
    }
    birth.plan.mount_overlays()?;
    match &birth.plan.network {
        Network::Of(path) => Namespace::open(path)?
            .enter()
            .map_err(RuntimeError::system("enter the network namespace")),
        // SAFETY: nothing but the network is unshared: no memory, no descriptors.
        Network::New => unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(RuntimeError::system("make a network namespace")),
    }
}

/// Forks the monitor, and takes the container's view.
fn begin(birth: Birth, creator: &UnixStream) -> Result<Pid, RuntimeError> {
    let (hear, tell) = io::pipe().map_err(RuntimeError::system("make a pipe"))?;
    let own = rustix::process::getpid();
    let Some(pid) = fork_here()? else {
        drop(tell);
        let dies = set_parent_process_death_signal(Some(Signal::KILL));
        // A parent that died before that gives no signal any more.
        if dies.is_err() || rustix::process::getppid() != Some(own) {
            std::process::exit(1);
        }
        let code = match birth.own.terminal().map_or(Ok(()), console::take) {
            Ok(()) => monitor::live(birth, File::from(std::os::fd::OwnedFd::from(hear))),
            Err(error) => {
                let _ = send(&birth.creator, &Word::Failed((&error).into()));
                1
            }
        };
        std::process::exit(code.into())
    };
    drop(hear);
    // The files of the host are gone after the second step.
    let seen = console::silence().and_then(|()| view::take(&birth.plan));
    // Streams, lock and terminal are the monitor's alone now.
    drop(birth);
    match seen {
        Ok(()) => {
            // Its end tells the monitor to go on.
            drop(tell);
            Ok(pid)
        }
        Err(error) => {
            let _ = send(creator, &Word::Failed((&error).into()));
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            drop(tell);
            Err(error)
        }
    }
}

/// Passes signals on to the monitor, a child of this process, until it ends; its exit code. One is not passed on: the
/// monitor gets it from the same sender.
pub fn wait(monitor: Pid, kept: Option<i32>) -> u8 {
    // SAFETY: the set is made by sigfillset before anything reads it.
    let signals = unsafe {
        let mut signals = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut signals);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
        signals
    };
    forget_start();
    loop {
        match waitpid(Some(monitor), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return code_of(status),
            // Somebody else has been told how it ended, and nobody will be again.
            Err(Errno::CHILD) => return UNKNOWN,
            _ => {}
        }
        let mut which = 0;
        // SAFETY: both live through the call.
        let came = unsafe { libc::sigwait(&raw const signals, &raw mut which) } == 0;
        if came && which != libc::SIGCHLD && Some(which) != kept {
            // SAFETY: kill takes two numbers and touches no memory.
            unsafe { libc::kill(monitor.as_raw_nonzero().get(), which) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_no_child_any_more_is_not_waited_for() {
        let (sender, receiver) = mpsc::channel();
        // A parent is nobody's child that could be waited for.
        let parent = rustix::process::getppid().unwrap();
        thread::spawn(move || sender.send(wait(parent, None)));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)), Ok(UNKNOWN));
    }
}
