//! What a thread of a running microVM may ask of the host's kernel, and nothing else: seccomp(2), mode 2.
//!
//! Once the guest runs, its vCPU threads and the event loop do little: they have opened what the configuration names.
//! Whoever breaks out of a guest into one of them finds no program to execute, no network, no other process to signal.
//! What it does not stop: a microVM with an `Async` drive has a ring, whose operations pass no filter; and the event loop
//! may open whatever files its user may, because the API names new ones.
//! Which calls they need stands, with the reasons, in [`policy`]. Any other raises SIGSYS, which ends the process with
//! Firecracker's exit code 148.

mod policy;
mod program;

use std::io;

/// How far the threads of a microVM are confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// They may use io_uring, whose operations pass no filter.
    pub rings: bool,
    /// Taps may be opened: devices may join a guest that runs.
    pub plugs: bool,
}

/// The filter of which threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The one with the event loop, which serves devices and the API.
    Monitor,
    /// Those that run the guest.
    Vcpu,
}

impl Filter {
    /// Confines the calling thread, and those that it will start, for good.
    ///
    /// # Errors
    /// The kernel has no system call filters, or no memory for this one.
    pub fn install(self, confinement: Confinement) -> io::Result<()> {
        let own = match self {
            Self::Monitor => policy::MONITOR,
            Self::Vcpu => policy::VCPU,
        };
        let rings = if confinement.rings { policy::RINGS } else { &[] };
        let plugs = match self {
            Self::Monitor if confinement.plugs => policy::PLUGS,
            _ => &[],
        };
        let program = program::compile(policy::ALL.iter().chain(own).chain(rings).chain(plugs))
            .map_err(|_| io::Error::other("the policy is too long"))?;
        let described = libc::sock_fprog {
            len: u16::try_from(program.len()).unwrap_or(u16::MAX),
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: sets a flag of the calling thread; without it only the superuser may install filters.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
        // SAFETY: the kernel reads, and copies, the program that `described` points to, which is alive.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const described,
            )
        })
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFINED: Confinement = Confinement {
        rings: false,
        plugs: false,
    };

    /// Runs `act` in a child behind `filter`; the signal that ended the child, or 0.
    fn ended_by(filter: Filter, act: fn()) -> libc::c_int {
        // SAFETY: the child calls what is async-signal-safe, or what the C library makes usable after a fork (its
        // allocator), and ends.
        unsafe {
            match libc::fork() {
                0 => {
                    libc::signal(libc::SIGSYS, libc::SIG_DFL);
                    if filter.install(CONFINED).is_err() {
                        libc::_exit(1);
                    }
                    act();
                    libc::_exit(0)
                }
                child => {
                    let mut status = 0;
                    assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                    if libc::WIFEXITED(status) {
                        assert_eq!(libc::WEXITSTATUS(status), 0);
                        return 0;
                    }
                    libc::WTERMSIG(status)
                }
            }
        }
    }

    fn socket(family: libc::c_int) {
        // SAFETY: makes a descriptor.
        unsafe { libc::socket(family, libc::SOCK_STREAM, 0) };
    }

    fn map(protection: libc::c_int) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which nobody uses.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    }

    #[test]
    fn what_a_monitor_does_is_let_through() {
        for filter in [Filter::Monitor, Filter::Vcpu] {
            assert_eq!(ended_by(filter, || map(libc::PROT_READ | libc::PROT_WRITE)), 0);
        }
        assert_eq!(ended_by(Filter::Monitor, || socket(libc::AF_UNIX)), 0);
    }

    #[test]
    fn threads_start_without_clone3() {
        let thread = || {
            // SAFETY: the kernel would refuse a description of no size.
            let result = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
            let is_absent = result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
            let started = std::thread::Builder::new()
                .spawn(|| 7)
                .map(std::thread::JoinHandle::join);
            if !is_absent || !matches!(started, Ok(Ok(7))) {
                // SAFETY: ends this process.
                unsafe { libc::_exit(1) };
            }
        };
        for filter in [Filter::Monitor, Filter::Vcpu] {
            assert_eq!(ended_by(filter, thread), 0, "{filter:?}");
        }
    }

    #[test]
    fn what_it_never_does_ends_it() {
        let execute = || {
            let path = c"/bin/true".as_ptr();
            let arguments = [path, std::ptr::null()];
            // SAFETY: the strings and lists are terminated.
            unsafe { libc::execv(path, arguments.as_ptr()) };
        };
        let kill = || {
            // SAFETY: asks whether a process is there.
            unsafe { libc::kill(1, 0) };
        };
        let signal = || {
            // SAFETY: asks whether a thread of another process is there.
            unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
        };
        let ring = || {
            // SAFETY: the kernel refuses a missing description.
            unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) };
        };
        let fork = || {
            // SAFETY: with these arguments it would be fork(2).
            unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        };
        let namespace = || {
            // SAFETY: the kernel refuses a namespace to a thread, if it is asked.
            unsafe {
                libc::syscall(
                    libc::SYS_clone,
                    libc::CLONE_NEWUSER | libc::CLONE_THREAD,
                    0,
                    0,
                    0,
                    0,
                )
            };
        };
        for filter in [Filter::Monitor, Filter::Vcpu] {
            assert_eq!(ended_by(filter, fork), libc::SIGSYS, "{filter:?} forks");
            assert_eq!(
                ended_by(filter, namespace),
                libc::SIGSYS,
                "{filter:?} has namespaces"
            );
            assert_eq!(ended_by(filter, execute), libc::SIGSYS, "{filter:?} executes");
            assert_eq!(ended_by(filter, kill), libc::SIGSYS, "{filter:?} kills");
            assert_eq!(
                ended_by(filter, signal),
                libc::SIGSYS,
                "{filter:?} signals others"
            );
            assert_eq!(ended_by(filter, ring), libc::SIGSYS, "{filter:?} makes a ring");
            let inet = || socket(libc::AF_INET);
            assert_eq!(ended_by(filter, inet), libc::SIGSYS, "{filter:?} has a network");
            let code = || map(libc::PROT_READ | libc::PROT_EXEC);
            assert_eq!(ended_by(filter, code), libc::SIGSYS, "{filter:?} makes code");
        }
        let open = || {
            // SAFETY: the path is terminated.
            unsafe { libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY) };
        };
        assert_eq!(ended_by(Filter::Vcpu, open), libc::SIGSYS);
    }
}
