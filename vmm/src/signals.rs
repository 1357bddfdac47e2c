//! Signals: requests to end, which the event loop takes as events, and crashes, which end the process with
//! Firecracker's exit codes. Either way the terminal works afterwards.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::console;
use crate::exit::ExitCode;

/// Signals that ask the process to end.
const REQUESTS: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];
/// Signals that end it at once.
const CRASHES: [(libc::c_int, ExitCode); 8] = [
    (libc::SIGSYS, ExitCode::BadSyscall),
    (libc::SIGBUS, ExitCode::Sigbus),
    (libc::SIGSEGV, ExitCode::Sigsegv),
    (libc::SIGXCPU, ExitCode::Sigxcpu),
    (libc::SIGILL, ExitCode::Sigill),
    (libc::SIGABRT, ExitCode::GenericError),
    (libc::SIGFPE, ExitCode::GenericError),
    (libc::SIGTRAP, ExitCode::GenericError),
];
/// Signals that mean nothing to a monitor. A disk file at its size limit is the guest's problem: the write then
/// fails with EFBIG. Restoring the terminal from the background must not stop the process.
const IGNORED: [libc::c_int; 3] = [libc::SIGXFSZ, libc::SIGPIPE, libc::SIGTTOU];
/// Seconds that an orderly end may take. The event loop may be waiting for storage that does not answer; a process
/// that was asked to end ends all the same.
const GRACE: libc::c_uint = 2;

/// The first request, 0 before it.
static REQUESTED: AtomicI32 = AtomicI32::new(0);
/// The event that a request signals.
static WAKE: AtomicI32 = AtomicI32::new(-1);

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Requests to end, as a descriptor that becomes readable.
pub struct SignalRequests {
    event: EventFd,
}

impl SignalRequests {
    /// Takes over the signals of this process, whatever mask it inherited. Call once, before there are threads. What
    /// the parent wanted ignored (`nohup`, a shell's background job) stays ignored.
    pub fn install() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        WAKE.store(event.as_raw_fd(), Ordering::SeqCst);
        for (signal, _) in CRASHES {
            handle(signal, on_crash, libc::SA_RESETHAND)?;
        }
        for signal in REQUESTS {
            if !is_ignored(signal) {
                handle(signal, on_request, libc::SA_RESTART)?;
            }
        }
        handle(libc::SIGALRM, on_overdue, 0)?;
        for signal in IGNORED {
            // SAFETY: ignoring a signal involves no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        unblock_all()?;
        Ok(Self { event })
    }

    /// The request, once there is one.
    pub fn read(&self) -> Option<libc::c_int> {
        // Nothing to read means nothing to do.
        let _ = self.event.read();
        match REQUESTED.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}

impl AsRawFd for SignalRequests {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Sets a handler that runs on the alternate stack, which the standard library gives each thread: the ordinary one
/// may be what overflowed.
fn handle(signal: libc::c_int, handler: Handler, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the structure is integers and pointers, for which all zeroes is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | flags;
    // SAFETY: `action` is a valid action whose handlers call nothing that is not async-signal-safe.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; the buffer is writable, and all zeroes is a value if the call fails.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Lets every signal through: a parent's mask must block neither the requests nor the signal that kicks vCPUs.
fn unblock_all() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set that the second call reads.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

extern "C" fn on_request(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if REQUESTED
        .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        return;
    }
    let one = 1_u64;
    // SAFETY: both calls are async-signal-safe; the descriptor is an event that is never closed.
    unsafe {
        libc::write(
            WAKE.load(Ordering::SeqCst),
            (&raw const one).cast(),
            size_of::<u64>(),
        );
        libc::alarm(GRACE);
    }
}

extern "C" fn on_overdue(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    console::restore();
    match REQUESTED.load(Ordering::SeqCst) {
        // Not our alarm: somebody wants the process gone.
        0 => die_of(libc::SIGALRM),
        signal => die_of(signal),
    }
}

extern "C" fn on_crash(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler a whole structure.
    let call = unsafe { info.as_ref() }.and_then(forbidden_call);
    let code = CRASHES
        .iter()
        .find(|(crash, _)| *crash == signal)
        .map_or(ExitCode::GenericError, |(_, code)| *code);
    let mut line = Line::new();
    match call {
        Some(call) => {
            line.push(b"koya-vmm: system call ");
            line.push_number(call);
            line.push(b" is forbidden by the filter (--no-seccomp leaves it out)\n");
        }
        None => line.push(b"koya-vmm: ended by a fatal signal\n"),
    }
    // SAFETY: async-signal-safe, and the buffer is valid for its length.
    unsafe {
        libc::write(
            libc::STDERR_FILENO,
            line.text().as_ptr().cast(),
            line.text().len(),
        )
    };
    console::restore();
    // SAFETY: async-signal-safe.
    unsafe { libc::_exit(i32::from(code)) };
}

/// The number of the system call that a filter has trapped.
fn forbidden_call(info: &libc::siginfo_t) -> Option<u32> {
    /// `si_code` of a trap by seccomp(2).
    const SYS_SECCOMP: libc::c_int = 1;
    /// `siginfo_t` as it is for SIGSYS.
    #[repr(C)]
    struct Trapped {
        signo: libc::c_int,
        errno: libc::c_int,
        code: libc::c_int,
        address: *const libc::c_void,
        call: u32,
    }
    (info.si_signo == libc::SIGSYS && info.si_code == SYS_SECCOMP).then(|| {
        // SAFETY: the structure is one of those that the kernel fills a `siginfo_t` with, which is larger.
        unsafe { (*ptr::from_ref(info).cast::<Trapped>()).call }
    })
}

/// A line put together without allocating: a signal may come in the midst of an allocation.
struct Line {
    text: [u8; 128],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self {
            text: [0; 128],
            len: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.text.iter_mut().skip(self.len);
        for (place, byte) in room.zip(bytes) {
            *place = *byte;
            self.len = self.len.saturating_add(1);
        }
    }

    fn push_number(&mut self, number: u32) {
        let (high, digit) = (number / 10, number % 10);
        if high > 0 {
            self.push_number(high);
        }
        self.push(&[b'0'.wrapping_add(u8::try_from(digit).unwrap_or_default())]);
    }

    fn text(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }
}

/// Ends the process by `signal` itself, so that whoever waits for it sees the truth. Async-signal-safe.
pub fn die_of(signal: libc::c_int) -> ! {
    // SAFETY: restores the default action and raises the signal, which nothing blocks.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        if signal == libc::SIGQUIT {
            // Its default action dumps core, in which a guest's secrets would lie.
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        }
        libc::raise(signal);
    }
    let _ = unblock_all();
    // SAFETY: ends the process.
    unsafe { libc::_exit(128_i32.saturating_add(signal)) }
}
