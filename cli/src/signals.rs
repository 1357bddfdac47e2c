//! Signals by name, and those that are passed on to the container.

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

/// Names without SIG, at their numbers (signal(7), x86-64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first real-time signal that a program can use, and the last.
const REAL_TIME: (u32, u32) = (34, 64);

/// A signal's number from its number or name.
///
/// # Errors
/// What would be right, if it is none.
pub fn parse(text: &str) -> Result<u32, String> {
    let wrong = || {
        format!(
            "{text:?} is no signal: give a name as TERM, or a number from 1 to {}",
            REAL_TIME.1
        )
    };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|&known| known == name) {
        return u32::try_from(index.saturating_add(1)).map_err(|_| wrong());
    }
    let number = match name.strip_prefix("RTMIN") {
        Some("") => Some(REAL_TIME.0),
        Some(more) => more
            .strip_prefix('+')
            .and_then(|more| more.parse().ok())
            .and_then(|more| REAL_TIME.0.checked_add(more)),
        None => name.parse().ok(),
    };
    number
        .filter(|number| (1..=REAL_TIME.1).contains(number))
        .ok_or_else(wrong)
}

/// Hands the signals that whoever waits for the container gets to `pass_on`, on a thread of its own: with a terminal
/// only its changes of size, because keys reach the container through it.
///
/// # Errors
/// When the host does not give them.
pub fn forward(terminal: bool, mut pass_on: impl FnMut(i32) + Send + 'static) -> std::io::Result<()> {
    let mut wanted = vec![SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGQUIT];
    if terminal {
        wanted.push(SIGWINCH);
    }
    let mut signals = Signals::new(wanted)?;
    thread::spawn(move || {
        for signal in signals.forever() {
            pass_on(signal);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same() {
        for (text, number) in [
            ("KILL", 9),
            ("sigterm", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SYS", 31),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "SIGNONSENSE", "RTMIN+31", "-9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
