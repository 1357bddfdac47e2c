//! This program's streams as those of a process in a container.

pub mod direct;
pub mod framed;

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

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

/// Whether somebody else made the descriptor one that does not wait, or a signal came.
fn can_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn await_events(file: &impl AsFd, events: PollFlags) {
    let _ = poll(&mut [PollFd::new(file, events)], None);
}

/// Reads from `source`, whatever it takes.
fn read_some(mut source: impl io::Read + AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if can_wait(&error) => await_events(&source, PollFlags::IN),
            result => return result,
        }
    }
}

/// Writes all of `bytes`, whatever it takes.
fn write_all(mut sink: impl io::Write + AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if can_wait(&error) => await_events(&sink, PollFlags::OUT),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
