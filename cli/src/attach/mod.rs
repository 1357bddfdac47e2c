//! This program's streams as those of a process in a container.

pub mod direct;
pub mod framed;

use crate::error::CliError;
use crate::terminal;

/// How a process is attached.
#[derive(Debug, Clone, Copy)]
pub struct Attachment {
    /// Whether what is typed goes to it.
    pub interactive: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

impl Attachment {
    /// A terminal needs somebody at one.
    ///
    /// # Errors
    /// [`CliError::NoTerminal`]
    pub fn check(self) -> Result<(), CliError> {
        match self.is_typed() && !terminal::is_there() {
            true => Err(CliError::NoTerminal),
            false => Ok(()),
        }
    }

    /// Whether keys go to a terminal of the process.
    fn is_typed(self) -> bool {
        self.tty && self.interactive
    }
}
