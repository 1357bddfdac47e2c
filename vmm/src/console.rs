//! The terminal that `koya-vmm` runs on, while it is the guest's console.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use koya_devices::legacy::{Console, Serial};

use crate::ending::{EndLine, Ending};

/// Ctrl-A, which introduces an escape.
const PREFIX: u8 = 0x01;

/// The settings the terminal had before. Kept outside any object so that a signal handler can restore them.
static SAVED: OnceLock<libc::termios> = OnceLock::new();
static RAW: AtomicBool = AtomicBool::new(false);

/// While it lives, standard input hands each key to the guest as it is typed.
pub struct RawTerminal;

impl RawTerminal {
    /// Makes the terminal on standard input raw.
    fn enter() -> io::Result<Self> {
        // SAFETY: the structure is plain integers, for which all zeroes is a value.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `settings` is writable and of the type that the call fills in.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let _ = SAVED.set(settings);
        // SAFETY: `settings` is a valid value of the type that the call changes.
        unsafe { libc::cfmakeraw(&raw mut settings) };
        // Output keeps being processed: log lines of ours that share the terminal need their carriage returns.
        settings.c_oflag |= libc::OPOST | libc::ONLCR;
        RAW.store(true, Ordering::Relaxed);
        set(&settings)?;
        Ok(Self)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its settings back. May be called from a signal handler, any number of times.
pub fn restore() {
    if RAW.swap(false, Ordering::Relaxed)
        && let Some(settings) = SAVED.get()
    {
        let _ = set(settings);
    }
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` points to a valid value for the duration of the call.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Finds the escape in what is typed: Ctrl-A x leaves, Ctrl-A Ctrl-A is one Ctrl-A for the guest. Of any other pair
/// the guest gets the second key.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    prefixed: bool,
}

/// What a typed key means.
#[derive(Debug, PartialEq, Eq)]
pub enum Key {
    /// The guest's.
    Guest(u8),
    /// Half of an escape.
    Held,
    /// The escape: end the microVM.
    Leave,
}

impl EscapeFilter {
    /// Takes the next key.
    pub fn key(&mut self, key: u8) -> Key {
        match (std::mem::replace(&mut self.prefixed, false), key) {
            (true, b'x' | b'X') => Key::Leave,
            (false, PREFIX) => {
                self.prefixed = true;
                Key::Held
            }
            (_, key) => Key::Guest(key),
        }
    }
}

/// Connects the serial port to the process's standard input. A terminal becomes raw, as long as the returned guard
/// lives, and understands the escape. A terminal in whose background the process runs is left alone: its keys are
/// somebody else's.
pub fn attach(serial: &Arc<Mutex<Serial>>, end: &Arc<EndLine>) -> io::Result<(Option<RawTerminal>, Console)> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok((
            None,
            Console::new(serial.clone(), Some(stdin.as_fd().try_clone_to_owned()?)),
        ));
    }
    if !is_foreground() {
        log::warn!("the console has no input: koya-vmm runs in the background of its terminal");
        return Ok((None, Console::new(serial.clone(), None)));
    }
    // Who sees no output would not know where his keys go.
    let terminal = if io::stdout().is_terminal() {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    let console = Console::new(serial.clone(), Some(stdin.as_fd().try_clone_to_owned()?));
    let (mut filter, end) = (EscapeFilter::default(), end.clone());
    let console = console.with_filter(Box::new(move |key| match filter.key(key) {
        Key::Guest(key) => Some(key),
        Key::Held => None,
        Key::Leave => {
            end.announce(Ending::Escape);
            None
        }
    }));
    Ok((terminal, console))
}

/// Whether the terminal on standard input listens to this process's group.
fn is_foreground() -> bool {
    // SAFETY: both calls only ask for numbers.
    let (foreground, ours) = unsafe { (libc::tcgetpgrp(libc::STDIN_FILENO), libc::getpgrp()) };
    // A terminal that controls no session of ours has no background.
    foreground == ours || foreground == -1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest_sees(typed: &[u8]) -> (Vec<u8>, bool) {
        let (mut filter, mut seen) = (EscapeFilter::default(), Vec::new());
        for &key in typed {
            match filter.key(key) {
                Key::Guest(key) => seen.push(key),
                Key::Held => {}
                Key::Leave => return (seen, true),
            }
        }
        (seen, false)
    }

    #[test]
    fn ctrl_a_x_leaves() {
        assert_eq!(guest_sees(b"ls\n\x01xignored"), (b"ls\n".to_vec(), true));
    }

    #[test]
    fn other_keys_reach_the_guest() {
        assert_eq!(guest_sees(b"x\x01\x01x"), (b"x\x01x".to_vec(), false));
        assert_eq!(guest_sees(b"\x01k\x03"), (b"k\x03".to_vec(), false));
    }
}
