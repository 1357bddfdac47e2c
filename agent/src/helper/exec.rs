//! Runs another process in a container.
//!
//! libcontainer can do this, but leaves out the user namespace: the process
//! would be root of the guest inside the container's files. So this is our own.
//!
//! ```text
//!  helper: limits, then all namespaces of the first process at once
//!    └─ fork: the PID namespace holds for children only
//!         cgroup ─► session, terminal ─► working directory, user, capabilities ─► program
//!         an error goes through a pipe that the program's start closes
//! ```

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libcontainer::oci_spec::runtime::Process;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{ForkResult, Pid, dup2, fork, pipe2, setsid};

use super::identity::{Identity, assume_identity, gains_nothing, install_filter, set_limits, with_user};
use super::program::{become_program, parse};
use super::{Failure, Outcome};
use crate::sys::resize_terminal;

/// Namespaces and the files that name them.
const NAMESPACES: [(&str, CloneFlags); 8] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)),
];
/// Terminal multiplexer's device number, and devpts' magic number.
const PTMX: (u64, u64) = (5, 2);
const DEVPTS: i64 = 0x1cd1;

/// Runs a process beside the process `init` of a container.
pub fn exec(
    init: u32,
    cgroup: &Path,
    process: serde_json::Value,
    identity: &Identity,
    size: (u16, u16),
) -> Outcome {
    let process = parse(&process)?;
    let failed = |act: &'static str| move |error: io::Error| Failure::runtime(act, &error);
    // What is joined may not trace this process or look at its files.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| failed("hide from the container")(errno.into()))?;
    let procs = open_cgroup(init, cgroup).map_err(failed("open the container's cgroup"))?;
    set_limits(&process)?;
    join_namespaces(init).map_err(failed("join the container's namespaces"))?;
    let terminal = if process.terminal().unwrap_or(false) {
        Some(open_terminal(size).map_err(failed("open a terminal in the container"))?)
    } else {
        None
    };
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("open a pipe")(errno.into()))?;
    // SAFETY: this process has one thread, so that the child may do anything.
    let pid = match unsafe { fork() }.map_err(|errno| failed("fork")(errno.into()))? {
        ForkResult::Child => {
            drop(reading);
            let Err(failure) = run(&process, identity, procs, terminal);
            report(writing, &failure)
        }
        ForkResult::Parent { child } => child,
    };
    drop(writing);
    let mut report = Vec::new();
    File::from(reading)
        .read_to_end(&mut report)
        .map_err(failed("hear the process"))?;
    if report.is_empty() {
        let pid = u32::try_from(pid.as_raw()).unwrap_or_default();
        return Ok((pid, terminal.map(|terminal| terminal.master)));
    }
    let _ = nix::sys::wait::waitpid(pid, None);
    Err(serde_json::from_slice(&report).map_err(|error| failed("understand the process")(error.into()))?)
}

fn report(pipe: OwnedFd, failure: &Failure) -> ! {
    let text = serde_json::to_vec(failure).unwrap_or_default();
    // The parent reads it; if not, it sees the pipe's end and a process that has gone.
    let _ = File::from(pipe).write_all(&text);
    std::process::exit(1)
}

/// Opens what joins the first process's cgroup: a systemd in there has moved
/// itself out of the container's own, which must hold no processes then. Opened
/// here, where its path is known, and used by the child: the helper itself is
/// not to count against the container's limits.
fn open_cgroup(init: u32, cgroup: &Path) -> io::Result<File> {
    let memberships = fs::read_to_string(format!("/proc/{init}/cgroup"))?;
    let own = memberships.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.map_or_else(
        || cgroup.to_path_buf(),
        |own| Path::new("/sys/fs/cgroup").join(own),
    );
    // A first process that is not in the container's cgroup is somebody else's.
    if !own.starts_with(cgroup) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    File::options().write(true).open(own.join("cgroup.procs"))
}

/// Joins all namespaces that differ, in one step, with the rights of before.
fn join_namespaces(init: u32) -> io::Result<()> {
    let pid = i32::try_from(init).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut flags = CloneFlags::empty();
    for (name, flag) in NAMESPACES {
        let inode = |who: &str| fs::metadata(format!("/proc/{who}/ns/{name}")).map(|file| file.ino());
        if inode(&init.to_string())? != inode("self")? {
            flags |= flag;
        }
    }
    let process = open_pidfd(Pid::from_raw(pid))?;
    if !flags.is_empty() {
        setns(&process, flags)?;
    }
    Ok(())
}

fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two plain numbers and touches no memory.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let raw = RawFd::try_from(raw).unwrap_or(-1);
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it; nobody else knows it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) })
}

/// A pair of ends of one terminal.
struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

/// Opens a terminal of the container's devpts. The container chose what is at
/// these paths, so nothing is believed that the kernel does not confirm.
fn open_terminal(size: (u16, u16)) -> io::Result<Terminal> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let raw = open("/dev/pts/ptmx", flags | OFlag::O_NOFOLLOW, Mode::empty())?;
    // SAFETY: open has just made it; nobody else knows it.
    let master: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) };
    let device = fstat(raw)?.st_rdev;
    let is_ptmx = (libc::major(device).into(), libc::minor(device).into()) == PTMX;
    if !is_ptmx || fstatfs(&master)?.filesystem_type().0 != DEVPTS {
        return Err(io::Error::other(
            "/dev/pts/ptmx is not the multiplexer of a devpts",
        ));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which lives through the call.
    if unsafe { libc::ioctl(raw, libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TIOCGPTPEER takes open(2)'s flags as a number.
    let raw = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it; nobody else knows it.
    let slave = unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) };
    if size != (0, 0) {
        resize_terminal(&master, size.0, size.1)?;
    }
    Ok(Terminal { master, slave })
}

/// The forked child: becomes the process.
fn run(
    process: &Process,
    identity: &Identity,
    mut procs: File,
    terminal: Option<Terminal>,
) -> Result<Infallible, Failure> {
    let failed =
        |act: &'static str| move |errno: nix::errno::Errno| Failure::runtime(act, &io::Error::from(errno));
    procs
        .write_all(b"0")
        .map_err(|error| Failure::runtime("join the container's cgroup", &error))?;
    let process = with_user(process.clone(), identity)?;
    setsid().map_err(failed("begin a session"))?;
    if let Some(Terminal { master, slave }) = terminal {
        drop(master);
        take_terminal(&slave, &process).map_err(|error| Failure::runtime("take the terminal", &error))?;
    }
    assume_identity(&process, identity)?;
    if gains_nothing(&process) {
        install_filter(identity)?;
    }
    become_program(&process)
}

fn take_terminal(slave: &OwnedFd, process: &Process) -> io::Result<()> {
    // The user of the process owns its terminal. Without rights to it (a user
    // namespace that does not map the owner) it works all the same.
    let _ = nix::unistd::fchown(slave.as_raw_fd(), Some(process.user().uid().into()), None);
    // SAFETY: TIOCSCTTY takes a number.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for number in 0..3 {
        dup2(slave.as_fd().as_raw_fd(), number)?;
    }
    Ok(())
}
