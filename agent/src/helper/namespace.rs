//! Makes a user namespace with a mapping, for mounts to refer to. Nothing runs
//! in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pause, pipe2};

use super::{Failure, Outcome};

/// Answers a descriptor of the namespace.
pub fn make(users: &str, groups: &str) -> Outcome {
    let failed = |error: io::Error| Failure::runtime("make a user namespace", &error);
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    // SAFETY: this process has one thread, so that the child may do anything.
    let child = match unsafe { fork() }.map_err(|errno| failed(errno.into()))? {
        ForkResult::Child => {
            drop(reading);
            wait_inside(writing)
        }
        ForkResult::Parent { child } => child,
    };
    drop(writing);
    let namespace = describe(child, reading, users, groups);
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    Ok((0, Some(namespace.map_err(failed)?)))
}

/// The child: enters a namespace, says so, and is there until it is killed.
fn wait_inside(writing: OwnedFd) -> ! {
    // The parent that dies takes it along.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if unshare(CloneFlags::CLONE_NEWUSER).is_ok() && File::from(writing).write_all(b"1").is_ok() {
        loop {
            pause();
        }
    }
    std::process::exit(1)
}

fn describe(child: Pid, reading: OwnedFd, users: &str, groups: &str) -> io::Result<OwnedFd> {
    let mut answer = [0];
    File::from(reading)
        .read_exact(&mut answer)
        .map_err(|_| io::Error::other("the kernel has no user namespaces, or allows no more of them"))?;
    fs::write(format!("/proc/{child}/uid_map"), users)?;
    fs::write(format!("/proc/{child}/gid_map"), groups)?;
    File::open(format!("/proc/{child}/ns/user")).map(OwnedFd::from)
}
