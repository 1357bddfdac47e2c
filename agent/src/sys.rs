//! Small pieces around system calls that the crates in use lack.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Locks a mutex; what a thread that panicked left behind is taken as it is,
/// for nothing here is ever half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a request must be answered; none: whenever.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// From now on; too far away to name is none.
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now().checked_add(duration))
    }

    /// No deadline.
    pub const NONE: Self = Self(None);

    /// What is left; `None` without deadline, zero once it has passed.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Has it passed?
    pub fn passed(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// Waits until one of the descriptors is ready (or broken), for at most a time.
/// Answers, for each, what is the matter with it; empty flags: nothing.
pub fn wait_ready<const N: usize>(
    wanted: [(BorrowedFd<'_>, PollFlags); N],
    timeout: Option<Duration>,
) -> io::Result<[PollFlags; N]> {
    let mut descriptors = wanted.map(|(fd, flags)| PollFd::new(fd, flags));
    let timeout = match timeout {
        None => PollTimeout::NONE,
        Some(duration) => PollTimeout::try_from(duration).unwrap_or(PollTimeout::MAX),
    };
    loop {
        match poll(&mut descriptors, timeout) {
            Ok(_) => return Ok(descriptors.map(|fd| fd.revents().unwrap_or(PollFlags::empty()))),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes reads or writes on a descriptor return instead of waiting.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    let flags = OFlag::from_bits_truncate(fcntl(raw, FcntlArg::F_GETFL)?);
    fcntl(raw, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A path as system calls take it.
pub fn path_bytes(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Descriptors that this process has at most. A process in a container has some ten of them, its connection for requests
/// and its streams among them, and there can be a thousand; the kernel begins with 1024 for all.
const MAX_FILES: u64 = 1 << 16;

/// The limits of open files that this process began with.
static INHERITED_FILES: OnceLock<libc::rlimit> = OnceLock::new();

/// Lets this process have [`MAX_FILES`], or as many as it may. Its children have what it began with.
pub fn raise_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= MAX_FILES {
        return;
    }
    // Once, by whoever is first.
    let _ = INHERITED_FILES.set(libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    });
    // Who may not raise what it may have at most takes that.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, hard.max(MAX_FILES))
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard.min(MAX_FILES), hard));
}

/// Descriptor under which a helper finds its end of the control socket.
pub const CONTROL_FD: i32 = 3;

/// Has a command start with a descriptor as number [`CONTROL_FD`], and with the limit of open files that this process began
/// with.
pub fn give_control(command: &mut Command, control: OwnedFd) -> io::Result<()> {
    // Somewhere above, so that duplicating it to CONTROL_FD is a real copy,
    // which is open in the new program.
    let high = fcntl(control.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: fcntl has just returned it; nobody else knows it.
    let high = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(high) };
    let files = INHERITED_FILES.get().copied();
    let prepare = move || {
        if let Some(files) = &files {
            // SAFETY: the limits live through the call.
            if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, files) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: dup2 on two plain numbers touches no memory.
        match unsafe { libc::dup2(high.as_raw_fd(), CONTROL_FD) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: between fork and exec it calls nothing but setrlimit and dup2,
    // which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

nix::ioctl_write_ptr_bad!(
    /// Sets a terminal's size.
    set_window_size,
    libc::TIOCSWINSZ,
    libc::winsize
);

/// Sets the size of a terminal by its master, in characters.
pub fn resize_terminal(master: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open and `size` lives through the call.
    unsafe { set_window_size(master.as_fd().as_raw_fd(), &raw const size) }?;
    Ok(())
}
