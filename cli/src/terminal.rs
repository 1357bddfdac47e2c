//! The terminal that `koya` runs on, while it is the container's.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The settings the terminal had before.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Hands each key on as it is typed, as long as it lives.
pub struct RawTerminal;

impl RawTerminal {
    /// Makes the terminal on standard input raw.
    ///
    /// # Errors
    /// When there is none, or it does not let itself be changed.
    pub fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Self)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its settings back, if it is raw.
pub fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// Whether keys can be typed at standard input.
pub fn is_there() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Rows and columns of the terminal on standard output, or input; 0 if there is none.
pub fn size() -> (u16, u16) {
    tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| tcgetwinsize(rustix::stdio::stdin()))
        .map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
