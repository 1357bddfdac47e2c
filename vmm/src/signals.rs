//! Signals: requests to end, which the event loop takes as events, and crashes, which end the process with
//! Firecracker's exit codes and a terminal that works.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use vmm_sys_util::signal::register_signal_handler;

use crate::console;
use crate::exit::ExitCode;

/// Signals that ask the process to end.
const REQUESTS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];
/// Signals that end it at once.
const CRASHES: [(libc::c_int, ExitCode); 6] = [
    (libc::SIGSYS, ExitCode::BadSyscall),
    (libc::SIGBUS, ExitCode::Sigbus),
    (libc::SIGSEGV, ExitCode::Sigsegv),
    (libc::SIGXCPU, ExitCode::Sigxcpu),
    (libc::SIGILL, ExitCode::Sigill),
    (libc::SIGABRT, ExitCode::GenericError),
];

/// Requests to end, as a descriptor that becomes readable.
pub struct SignalRequests {
    fd: OwnedFd,
}

impl SignalRequests {
    /// Takes over the signals of this process. Call before any thread is started: threads inherit the mask.
    pub fn install() -> io::Result<Self> {
        for (signal, _) in CRASHES {
            register_signal_handler(signal, on_crash)
                .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        }
        // A disk file at its size limit is the guest's problem: the write then fails with EFBIG.
        // SAFETY: ignoring a signal involves no handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let set = request_set();
        // SAFETY: `set` is a valid set for the duration of the calls; the descriptor is ours alone.
        unsafe {
            if libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self {
                    fd: OwnedFd::from_raw_fd(fd),
                }),
            }
        }
    }

    /// The next request, if there is one.
    pub fn read(&self) -> Option<libc::c_int> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is writable and `size` bytes long.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(read) != Ok(size) {
            return None;
        }
        // SAFETY: the kernel has filled the whole structure in.
        let info = unsafe { info.assume_init() };
        libc::c_int::try_from(info.ssi_signo).ok()
    }
}

impl AsRawFd for SignalRequests {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn request_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set, and the signals added are valid ones.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in REQUESTS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

extern "C" fn on_crash(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    console::restore();
    let text = b"koya-vmm: ended by a fatal signal\n";
    let code = CRASHES
        .iter()
        .find(|(crash, _)| *crash == signal)
        .map_or(ExitCode::GenericError, |(_, code)| *code);
    // SAFETY: both calls are async-signal-safe, and the buffer is valid for its length.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(i32::from(code));
    }
}

/// Ends the process by `signal` itself, so that whoever waits for it sees the truth.
pub fn die_of(signal: libc::c_int) -> ! {
    let set = request_set();
    // SAFETY: restores the default action and lets the signal through; all arguments are valid.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        libc::raise(signal);
        // Only reached if the signal does not end a process after all.
        libc::_exit(128_i32.saturating_add(signal))
    }
}
