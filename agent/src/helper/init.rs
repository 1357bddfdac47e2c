//! A small init in front of a container's first process: it reaps what is left
//! behind, passes signals on, and ends as the process does.
//!
//! It executes nothing: the helper forks, the child becomes the program, and the
//! helper itself stays as process 1.

use std::convert::Infallible;
use std::io;

use libcontainer::oci_spec::runtime::Process;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid, tcsetpgrp};

use super::program::{become_program, refuse};
use super::{Failure, Kind};

/// Runs a process below this one, which becomes its init.
pub fn supervise(process: &Process) -> Result<Infallible, Failure> {
    let failed = |act: &'static str| move |errno: Errno| Failure::runtime(act, &io::Error::from(errno));
    // All are waited for, and none is lost before that.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).map_err(failed("block signals"))?;
    // SAFETY: this process has one thread, so that the child may do anything.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Child => {
            take_foreground();
            let Err(failure) = become_program(process);
            refuse(&failure)
        }
        ForkResult::Parent { child } => wait_for(child),
    }
}

/// Signals of the terminal are for the process and its children, once.
fn take_foreground() {
    let own = Pid::from_raw(0);
    let _ = setpgid(own, own);
    // Without a terminal there is nothing to take. SIGTTOU, which this would bring, is blocked.
    let _ = tcsetpgrp(io::stdin(), nix::unistd::getpgrp());
}

fn wait_for(child: Pid) -> Result<Infallible, Failure> {
    let _ = nix::sys::prctl::set_name(c"koya-init");
    // Otherwise closed by the program's start, which does not happen here. A pipe that stays
    // open would keep others waiting.
    // SAFETY: nothing here uses a descriptor above 2 any more.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let signals = SigSet::all();
    loop {
        let which = match wait_signal(&signals) {
            Ok(which) => which,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Failure::new(Kind::Runtime, errno.desc())),
        };
        if which != libc::SIGCHLD {
            // Its end is heard of by SIGCHLD.
            // SAFETY: kill takes two numbers and touches no memory.
            unsafe { libc::kill(child.as_raw(), which) };
        }
        // Children that end at the same time may be one signal.
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::Exited(pid, code) if pid == child => std::process::exit(code),
                WaitStatus::Signaled(pid, signal, _) if pid == child => {
                    std::process::exit(128_i32.saturating_add(signal as i32))
                }
                WaitStatus::StillAlive => break,
                _ => {}
            }
        }
    }
}

/// The next signal, real-time ones included, for which nix has no names.
fn wait_signal(signals: &SigSet) -> nix::Result<i32> {
    let mut which = 0;
    // SAFETY: both live through the call.
    match unsafe { libc::sigwait(signals.as_ref(), &raw mut which) } {
        0 => Ok(which),
        error => Err(Errno::from_raw(error)),
    }
}
