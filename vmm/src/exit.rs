//! The exit codes of `koya-vmm`, which are Firecracker's.

/// What the process tells whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest shut down or reset.
    Ok = 0,
    /// Something failed that has no code of its own.
    GenericError = 1,
    /// SIGSYS.
    BadSyscall = 148,
    /// SIGBUS.
    Sigbus = 149,
    /// SIGSEGV.
    Sigsegv = 150,
    /// The log level is none.
    BadConfiguration = 152,
    /// The command line is not usable.
    ArgParsing = 153,
    /// SIGXCPU: the processor time is used up.
    Sigxcpu = 154,
    /// SIGHUP.
    Sighup = 156,
    /// SIGILL.
    Sigill = 157,
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> Self {
        code as Self
    }
}
