//! Signals that a process passes on to another.

/// Those that a process can pass on: all but the ones that it cannot catch, that tell it of an error of its own, or of
/// its own children and pipes.
pub fn passed_on() -> impl Iterator<Item = i32> {
    let own = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGTRAP,
        libc::SIGCHLD,
        libc::SIGPIPE,
    ];
    let standard = (1..=31).filter(move |number| !own.contains(number));
    standard.chain(34..=64)
}
