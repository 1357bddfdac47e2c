//! A pseudo-terminal for a monitor to run on.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{Output, PATIENCE, Vm};

/// Both ends of a pseudo-terminal.
pub struct Terminal {
    keyboard: File,
    /// The end that programs run on. Kept open so that the settings can be looked at after their end.
    line: File,
    /// What programs write.
    pub screen: Output,
}

/// What a terminal does with what goes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub input: libc::tcflag_t,
    pub output: libc::tcflag_t,
    pub control: libc::tcflag_t,
    pub local: libc::tcflag_t,
    pub characters: [libc::cc_t; libc::NCCS],
}

impl Settings {
    /// Whether keys go through as they are typed, without echo, line editing or signals.
    pub fn is_raw(&self) -> bool {
        self.local & (libc::ECHO | libc::ICANON | libc::ISIG | libc::IEXTEN) == 0
            && self.input & (libc::ICRNL | libc::IXON) == 0
    }
}

impl Terminal {
    pub fn new() -> Self {
        let (mut keyboard, mut line) = (-1, -1);
        // SAFETY: the first two arguments are writable integers, the others may be null.
        let made = unsafe {
            libc::openpty(
                &raw mut keyboard,
                &raw mut line,
                ptr::null_mut(),
                ptr::null(),
                ptr::null(),
            )
        };
        assert_eq!(made, 0, "openpty: {}", io::Error::last_os_error());
        // SAFETY: the descriptors are fresh and nobody else's.
        let (keyboard, line) = unsafe { (OwnedFd::from_raw_fd(keyboard), OwnedFd::from_raw_fd(line)) };
        for end in [&keyboard, &line] {
            // SAFETY: the descriptor is open; programs of other tests must not inherit it.
            unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        let screen = Output::collect(File::from(keyboard.try_clone().unwrap()));
        Self {
            keyboard: keyboard.into(),
            line: line.into(),
            screen,
        }
    }

    /// Runs `command` as the leader of a session on this terminal.
    pub fn run(&self, command: Command) -> Vm {
        Vm::spawn_as_it_is(self.prepare(command))
    }

    /// Makes `command` run on this terminal.
    pub fn prepare(&self, mut command: Command) -> Command {
        let stream = || Stdio::from(self.line.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: both are async-signal-safe system calls; descriptor 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits until the screen shows `text`.
    pub fn expect(&self, text: &str) {
        assert!(
            self.screen.wait_for(text, PATIENCE),
            "no {text:?} on the screen: {}",
            self.screen.text()
        );
    }

    pub fn settings(&self) -> Settings {
        // SAFETY: the structure is plain integers, for which all zeroes is a value.
        let mut found: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `found` is writable and of the type that the call fills in.
        let result = unsafe { libc::tcgetattr(self.line.as_raw_fd(), &raw mut found) };
        assert_eq!(result, 0, "tcgetattr: {}", io::Error::last_os_error());
        Settings {
            input: found.c_iflag,
            output: found.c_oflag,
            control: found.c_cflag,
            local: found.c_lflag,
            characters: found.c_cc,
        }
    }

    /// Waits until the terminal is raw.
    pub fn expect_raw(&self) {
        let start = Instant::now();
        while !self.settings().is_raw() {
            assert!(start.elapsed() < PATIENCE, "the terminal does not become raw");
            thread::sleep(Duration::from_millis(2));
        }
    }
}
