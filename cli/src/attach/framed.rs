//! A container whose streams come from its monitor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use koya_proto::client::{AgentClient, ClientError, ProcessId};
use koya_sandbox::monitor::{Connection, Event};
use koya_sandbox::patient::{read_some, write_all};
use signal_hook::consts::SIGWINCH;

use super::Attachment;
use crate::error::CliError;
use crate::signals::Relay;
use crate::terminal::{self, RawTerminal};

/// Ctrl-P and Ctrl-Q, one after the other, leave a container running; docker's.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Passes this program's signals on to a process, and the size of its terminal. `connect` is asked for the agent when there
/// is something to tell it.
pub fn pass_signals_on(
    mut connect: impl FnMut() -> Option<AgentClient> + Send + 'static,
    process: &ProcessId,
    relay: &Relay,
    attachment: Attachment,
) {
    let process = process.clone();
    let mut connected = None;
    let mut tell = move |signal| {
        // The process may just have ended; then nobody is left to tell.
        let Some(agent) = connected.take().or_else(&mut connect) else {
            return;
        };
        let told = match u32::try_from(signal) {
            Ok(_) if signal == SIGWINCH && attachment.tty => {
                let (rows, columns) = terminal::size();
                agent.resize(&process, rows, columns)
            }
            Ok(signal) => agent.signal(&process, signal),
            Err(_) => Ok(()),
        };
        // A connection that broke is made anew.
        if !matches!(told, Err(ClientError::Connection { .. })) {
            connected = Some(agent);
        }
    };
    if attachment.tty {
        // It may have changed meanwhile.
        tell(SIGWINCH);
    }
    relay.pass_on(tell);
}

/// Stays with a container until it has ended, or the user detaches; its exit code. `hang_up` ends the container's output.
///
/// # Errors
/// [`CliError`]
pub fn follow(
    connection: &Connection,
    attachment: Attachment,
    hang_up: impl Fn(),
) -> Result<ExitCode, CliError> {
    // After the start, so that a refusal is told on a terminal as it was.
    let raw = match attachment.is_typed() && terminal::is_there() {
        true => Some(RawTerminal::enter().map_err(CliError::Terminal)?),
        false => None,
    };
    let detached = Arc::new(AtomicBool::new(false));
    if attachment.interactive {
        let typed = connection.try_clone().map_err(CliError::Streams)?;
        let source = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let (flag, keys) = (Arc::clone(&detached), raw.is_some());
        thread::spawn(move || feed(&typed, &source, keys, &flag));
    }
    let ended = pass_on(connection, hang_up);
    drop(raw);
    if detached.load(Ordering::SeqCst) {
        return Ok(ExitCode::SUCCESS);
    }
    ended
}

/// Passes on what the container writes until it has ended. Once that cannot be written here, `hang_up` is called.
fn pass_on(connection: &Connection, hang_up: impl Fn()) -> Result<ExitCode, CliError> {
    let mut lost = None;
    let mut unread = false;
    let mut buffer = Connection::buffer();
    loop {
        let written = match connection.next_event(&mut buffer) {
            Event::Stdout(_) | Event::Stderr(_) if unread => Ok(()),
            Event::Stdout(bytes) => {
                write_all(io::stdout().as_fd().try_clone_to_owned().map(File::from)?, bytes)
            }
            Event::Stderr(bytes) => {
                write_all(io::stderr().as_fd().try_clone_to_owned().map(File::from)?, bytes)
            }
            Event::Exit(exit) => {
                if exit.oom_killed {
                    crate::warn("the kernel killed a process of the container: out of memory");
                }
                if !exit.error.is_empty() {
                    crate::warn(&exit.error);
                }
                return match lost {
                    Some(error) => Err(CliError::OutputLost(error)),
                    None => Ok(ExitCode::from(exit.code)),
                };
            }
            Event::Lost => return Err(CliError::MonitorLost),
        };
        if let Err(error) = written
            && !std::mem::replace(&mut unread, true)
        {
            // The process gets to know it; what is still on its way is dropped.
            hang_up();
            if error.kind() != io::ErrorKind::BrokenPipe {
                lost = lost.or(Some(error));
            }
        }
    }
}

/// Gives the container what is typed, until its end or until the user detaches.
fn feed(connection: &Connection, source: &File, keys: bool, detached: &AtomicBool) {
    let mut watch = DetachKeys::default();
    let fed = connection.feed(|buffer| {
        let len = read_some(source, buffer)?;
        if keys && watch.sees(buffer.get(..len).unwrap_or_default()) {
            detached.store(true, Ordering::SeqCst);
            connection.leave();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(len)
    });
    if let Err(error) = fed
        && !detached.load(Ordering::SeqCst)
    {
        let _ = writeln!(io::stderr(), "koya: cannot read standard input: {error}");
        let _ = connection.end_stdin();
    }
}

/// Looks for the keys that detach.
#[derive(Default)]
struct DetachKeys {
    begun: bool,
}

impl DetachKeys {
    /// Whether they have been typed, `typed` being the last of it.
    fn sees(&mut self, typed: &[u8]) -> bool {
        let [first, second] = DETACH;
        for &key in typed {
            if self.begun && key == second {
                return true;
            }
            self.begun = key == first;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_in_a_row_detach() {
        let mut keys = DetachKeys::default();
        assert!(!keys.sees(b"ls\x10x\x11"));
        assert!(!keys.sees(b"\x10"));
        assert!(keys.sees(b"\x11"));
        assert!(DetachKeys::default().sees(b"abc\x10\x11"));
    }
}
