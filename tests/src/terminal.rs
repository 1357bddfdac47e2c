//! A pseudo-terminal for a program to run on, and somebody who types there and looks at the screen.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "it serves tests, which fail by panics"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use crate::vm::{Output, PATIENCE, Vm};

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
    input: libc::tcflag_t,
    output: libc::tcflag_t,
    control: libc::tcflag_t,
    local: libc::tcflag_t,
    characters: [libc::cc_t; libc::NCCS],
}

impl Settings {
    /// Whether keys go through as they are typed, without echo, line editing or signals.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.local & (libc::ECHO | libc::ICANON | libc::ISIG | libc::IEXTEN) == 0
            && self.input & (libc::ICRNL | libc::IXON) == 0
    }
}

impl Terminal {
    /// A new one, of no size.
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

    /// Presses keys.
    pub fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Presses keys one after the other, each when the one before it has been read: as a person does, for a program.
    pub fn press(&mut self, keys: &[u8]) {
        for key in keys {
            self.type_in(&[*key]);
            let start = Instant::now();
            while self.has_unread() {
                assert!(start.elapsed() < PATIENCE, "nobody reads what is typed");
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Whether something has been typed that no program has read.
    fn has_unread(&self) -> bool {
        let mut line = libc::pollfd {
            fd: self.line.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the call is given one structure, which it may write to. It waits for what is on its way from the keyboard,
        // and for nothing else.
        let ready = unsafe { libc::poll(&raw mut line, 1, 0) };
        ready == 1
    }

    /// Waits until the screen shows `text`.
    pub fn expect(&self, text: &str) {
        assert!(
            self.screen.wait_for(text, PATIENCE),
            "no {text:?} on the screen: {}",
            self.screen.text()
        );
    }

    /// Gives its window a size; whoever runs in its foreground is told.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the call reads a structure that lives through it.
        let set = unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(set, 0, "TIOCSWINSZ: {}", io::Error::last_os_error());
    }

    /// What it does with what goes through it now.
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

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}
