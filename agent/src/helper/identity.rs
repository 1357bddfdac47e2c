//! Who an exec'd process is: limits, user, groups, capabilities, folder.

use std::fs;
use std::io;

use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::Process;
use libcontainer::syscall::syscall::create_syscall;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, setgroups};

use super::{Failure, Kind};

/// Sets what only the guest's root may set: before joining namespaces.
pub fn set_limits(process: &Process) -> Result<(), Failure> {
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| Failure::runtime("set process.oomScoreAdj", &error))?;
    }
    let syscall = create_syscall();
    for limit in process.rlimits().iter().flatten() {
        syscall
            .set_rlimit(limit)
            .map_err(|error| Failure::runtime("set process.rlimits", &error))?;
    }
    Ok(())
}

/// Becomes the user that a process is to be, in its working directory.
pub fn assume_identity(process: &Process) -> Result<(), Failure> {
    let user = process.user();
    let failed =
        |act: &'static str| move |errno: nix::errno::Errno| Failure::runtime(act, &io::Error::from(errno));
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
    if process.no_new_privileges() == Some(true) {
        nix::sys::prctl::set_no_new_privs().map_err(failed("set process.noNewPrivileges"))?;
    }
    Ok(())
}
