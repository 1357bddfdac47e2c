//! The terminal that `koya-vmm` runs on, while it is the guest's console.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

/// Ctrl-A, which introduces an escape.
const PREFIX: u8 = 0x01;

/// The settings the terminal had before. Kept outside any object so that a signal handler can restore them.
static SAVED: OnceLock<libc::termios> = OnceLock::new();
static RAW: AtomicBool = AtomicBool::new(false);

/// While it lives, standard input hands each key to the guest as it is typed.
pub struct RawTerminal;

impl RawTerminal {
    /// Makes the terminal on standard input raw; `None` when that is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
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
        Ok(Some(Self))
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

/// Finds the escape in what is typed: Ctrl-A x leaves, Ctrl-A Ctrl-A is one Ctrl-A for the guest.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    prefixed: bool,
}

impl EscapeFilter {
    /// Removes escapes from `typed`. Returns true when it holds the one that leaves; what follows it is dropped.
    pub fn filter(&mut self, typed: &mut Vec<u8>) -> bool {
        let mut leave = false;
        let mut kept = Vec::with_capacity(typed.len().saturating_add(1));
        for &byte in typed.iter() {
            match (std::mem::replace(&mut self.prefixed, false), byte) {
                (true, b'x' | b'X') => {
                    leave = true;
                    break;
                }
                (true, PREFIX) => kept.push(PREFIX),
                (true, other) => kept.extend([PREFIX, other]),
                (false, PREFIX) => self.prefixed = true,
                (false, other) => kept.push(other),
            }
        }
        *typed = kept;
        leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_all(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut filter, mut all) = (EscapeFilter::default(), Vec::new());
        for chunk in chunks {
            let mut typed = chunk.to_vec();
            let leave = filter.filter(&mut typed);
            all.extend(typed);
            if leave {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn ctrl_a_x_leaves_even_when_it_arrives_in_two_pieces() {
        assert_eq!(type_all(&[b"ls\n\x01xignored"]), (b"ls\n".to_vec(), true));
        assert_eq!(type_all(&[b"ls\n\x01", b"x"]), (b"ls\n".to_vec(), true));
    }

    #[test]
    fn other_keys_reach_the_guest() {
        assert_eq!(type_all(&[b"x\x01\x01x"]), (b"x\x01x".to_vec(), false));
        assert_eq!(type_all(&[b"\x01", b"k", b"\x03"]), (b"\x01k\x03".to_vec(), false));
    }
}
