//! Who a process is: limits, user, groups, capabilities, folder, system calls.

use std::fs;
use std::io;

use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::{Process, User, UserBuilder};
use libcontainer::syscall::syscall::create_syscall;
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, setgroups};
use serde::{Deserialize, Serialize};

use super::{Failure, Kind, user};

/// What a process's object does not say about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// "user[:group]" by name or number; empty: as the process object says.
    pub user: String,
    /// Which system calls it has.
    pub filter: Filter,
}

/// A filter of system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Instructions of classic BPF (struct sock_filter): operation in bits 0 to 15, then 8 bits each of how far to jump if
    /// true and if not, and the operand in bits 32 to 63. None: no filter.
    pub code: Vec<u64>,
    /// seccomp(2)'s SECCOMP_FILTER_FLAG_*.
    pub flags: u64,
}

/// Sets what only the guest's root may set: before joining namespaces.
pub fn set_limits(process: &Process) -> Result<(), Failure> {
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| Failure::runtime("set process.oomScoreAdj", &error))?;
    }
    limit(process, 0)
}

/// Sets a process's limits, by its pid; 0 is this one.
pub fn limit(process: &Process, pid: i32) -> Result<(), Failure> {
    for limit in process.rlimits().iter().flatten() {
        let value = libc::rlimit {
            rlim_cur: limit.soft(),
            rlim_max: limit.hard(),
        };
        // The specification's names are in the kernel's order, but for their numbers.
        let which = limit.typ() as libc::__rlimit_resource_t;
        // SAFETY: the new limit lives through the call; the old one is not asked for.
        let done = unsafe { libc::prlimit(pid, which, &raw const value, std::ptr::null_mut()) };
        Errno::result(done).map_err(|errno| {
            Failure::runtime(
                &format!("set process.rlimits, {:?}", limit.typ()),
                &io::Error::from(errno),
            )
        })?;
    }
    Ok(())
}

/// The process object with the user that is asked for by name, looked up inside
/// the container.
pub fn with_user(mut process: Process, identity: &Identity) -> Result<Process, Failure> {
    if !identity.user.is_empty() {
        process.set_user(named(&identity.user, process.user())?);
    }
    Ok(process)
}

/// Becomes the user that a process is to be, in its working directory, with its
/// capabilities. The filter of system calls holds from here on, unless the
/// process may gain no privileges: then [`install_filter`] comes last, when less
/// is needed of it.
pub fn assume_identity(process: &Process, identity: &Identity) -> Result<(), Failure> {
    let failed = |act: &'static str| move |errno: Errno| Failure::runtime(act, &io::Error::from(errno));
    let user = process.user();
    if let Some(mask) = user.umask() {
        umask(Mode::from_bits_truncate(mask));
    }
    // Now as root, or else below as the user: either may be the one who can.
    let folder = process.cwd();
    if !folder.is_absolute() {
        let message = format!("process.cwd is '{}'; want an absolute path", folder.display());
        return Err(Failure::new(Kind::Invalid, message));
    }
    let entered = chdir(folder);
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .copied()
        .map(Gid::from_raw)
        .collect();
    setgroups(&groups).map_err(failed("set process.user.additionalGids"))?;
    if !gains_nothing(process) {
        // Takes CAP_SYS_ADMIN, which is about to go.
        install_filter(identity)?;
    }
    let syscall = create_syscall();
    let refused = |act: &'static str| move |error| Failure::runtime(act, &error);
    syscall
        .set_id(Uid::from_raw(user.uid()), Gid::from_raw(user.gid()))
        .map_err(refused("become process.user"))?;
    reset_effective(syscall.as_ref()).map_err(refused("reset capabilities"))?;
    if let Some(capabilities) = process.capabilities() {
        drop_privileges(capabilities, syscall.as_ref()).map_err(refused("set process.capabilities"))?;
    }
    entered.or_else(|_| chdir(folder)).map_err(|errno| {
        Failure::runtime(
            &format!("enter process.cwd '{}'", folder.display()),
            &io::Error::from(errno),
        )
    })?;
    if gains_nothing(process) {
        nix::sys::prctl::set_no_new_privs().map_err(failed("set process.noNewPrivileges"))?;
    }
    Ok(())
}

/// Is it never to have more rights than it starts with?
pub fn gains_nothing(process: &Process) -> bool {
    process.no_new_privileges() == Some(true)
}

/// Has the kernel look at every system call of this process from now on.
pub fn install_filter(identity: &Identity) -> Result<(), Failure> {
    if identity.filter.code.is_empty() {
        return Ok(());
    }
    let failed = |error: io::Error| Failure::runtime("install the filter of system calls", &error);
    let instruction = |bits: u64| {
        let [a, b, jt, jf, k0, k1, k2, k3] = bits.to_le_bytes();
        libc::sock_filter {
            code: u16::from_le_bytes([a, b]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        }
    };
    let code = identity.filter.code.iter().copied();
    let mut instructions: Vec<libc::sock_filter> = code.map(instruction).collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len())
            .map_err(|_| failed(io::Error::from_raw_os_error(libc::E2BIG)))?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions live through the call; the kernel copies them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            identity.filter.flags,
            &raw const program,
        )
    };
    match Errno::result(done).map_err(|errno| failed(errno.into()))? {
        0 => Ok(()),
        // SECCOMP_FILTER_FLAG_TSYNC: the thread that could not follow; nothing was installed.
        thread => Err(failed(io::Error::other(format!(
            "thread {thread} has another filter"
        )))),
    }
}

/// A user by name, with the mask of the one in the process object.
fn named(text: &str, given: &User) -> Result<User, Failure> {
    let found = user::find(text)?;
    let builder = UserBuilder::default()
        .uid(found.uid)
        .gid(found.gid)
        .additional_gids(found.groups);
    let builder = match given.umask() {
        Some(mask) => builder.umask(mask),
        None => builder,
    };
    builder
        .build()
        .map_err(|error| Failure::runtime("describe the process's user", &error))
}
