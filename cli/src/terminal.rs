//! The terminal that `koya` runs on, while it is the container's.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Hands each key on as it is typed, as long as it lives.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes the terminal on standard input raw; nothing if there is none.
    ///
    /// # Errors
    /// When the terminal does not let itself be changed.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Ok(None);
        }
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Rows and columns of the terminal on standard output; 0 if there is none.
pub fn size() -> (u16, u16) {
    tcgetwinsize(rustix::stdio::stdout()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
