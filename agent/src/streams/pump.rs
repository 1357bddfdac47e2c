//! Copies between a process's pipe or terminal and its stream. Each direction
//! has a thread and one buffer, so that a slow peer stops nobody else.
//!
//! What a process has written when it ends is delivered before its output
//! counts as drained. What its own children, which may outlive it, write after
//! that is read and thrown away: they are not to die of a broken pipe.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::PollFlags;

use super::broker::{Event, Ticket};
use crate::children::Child;
use crate::sys::wait_ready;

const BUFFER: usize = 64 << 10;
/// How long the output of a process that has ended is kept for a stream that
/// has not been connected.
const CONNECT_AFTER_END: Duration = Duration::from_secs(10);
/// A terminal that nobody has open reads as broken; it is asked again after this.
const NOBODY_AT_TERMINAL: Duration = Duration::from_millis(50);
/// How long a terminal's client may take to close its end after ours.
const LINGER: Duration = Duration::from_secs(1);

/// A stream's socket. vsock and unix sockets differ in nothing that is used of
/// them: read, write, shutdown.
pub type Socket = UnixStream;

/// Waits for a ticket's stream; `None` if the process ended and none came.
pub fn await_stream(ticket: &Ticket) -> Option<Socket> {
    let event = match ticket.receiver().recv() {
        Ok(Event::Ended) => ticket.receiver().recv_timeout(CONNECT_AFTER_END).ok(),
        Ok(event) => Some(event),
        Err(_) => None,
    };
    match event {
        Some(Event::Connected(connection)) => Some(Socket::from(connection)),
        _ => None,
    }
}

/// What a source has to say.
enum Chunk {
    Bytes(usize),
    /// Nothing now, and the process has ended.
    Quiet,
    End,
}

/// What becomes of output that nobody takes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is thrown away: the process goes on as if it were read.
    Drop,
    /// The pipe is closed: the process cannot write any more.
    HangUp,
}

/// From a pipe or terminal into a stream; `drained` is called when all that the
/// process has written is delivered or given up.
pub fn output(
    source: File,
    child: &Arc<Child>,
    stream: Option<&Socket>,
    unread: Unread,
    drained: impl FnOnce(),
) {
    let mut source = source;
    let mut sink = stream;
    let mut buffer = vec![0; BUFFER];
    loop {
        match next(&mut source, child, &mut buffer) {
            Ok(Chunk::Bytes(length)) => {
                let taken = deliver(&mut sink, buffer.get(..length).unwrap_or_default());
                if !taken && unread == Unread::HangUp {
                    return drained();
                }
            }
            Ok(Chunk::Quiet) => break,
            Ok(Chunk::End) | Err(_) => {
                close_writing(stream);
                return drained();
            }
        }
    }
    close_writing(stream);
    drained();
    // Until the last writer has gone. (A terminal's do not block, and whoever
    // still has it open is hung up.)
    while matches!(source.read(&mut buffer), Ok(1..)) {}
}

/// Writes to the stream; whether it still takes anything.
fn deliver(sink: &mut Option<&Socket>, bytes: &[u8]) -> bool {
    if let Some(mut socket) = *sink
        && socket.write_all(bytes).is_err()
    {
        // The client has gone.
        *sink = None;
    }
    sink.is_some()
}

fn close_writing(stream: Option<&Socket>) {
    if let Some(stream) = stream {
        // Fails if the client closed it first.
        let _ = stream.shutdown(Shutdown::Write);
    }
}

fn next(source: &mut File, child: &Child, buffer: &mut [u8]) -> io::Result<Chunk> {
    loop {
        let [readable, ended] = wait_ready(
            [
                (source.as_fd(), PollFlags::POLLIN),
                (child.event(), PollFlags::POLLIN),
            ],
            None,
        )?;
        if readable.is_empty() {
            if ended.is_empty() {
                continue;
            }
            return Ok(Chunk::Quiet);
        }
        match source.read(buffer) {
            Ok(0) => return Ok(Chunk::End),
            Ok(length) => return Ok(Chunk::Bytes(length)),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // A terminal without anybody at its other end.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                if child.ended().is_some() {
                    return Ok(Chunk::End);
                }
                wait_ready([(child.event(), PollFlags::POLLIN)], Some(NOBODY_AT_TERMINAL))?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// From a stream into a process's stdin, a pipe whose writes do not block. The
/// end of the stream closes the pipe.
pub fn input(stream: &Socket, pipe: OwnedFd, child: &Child) {
    let mut pipe = File::from(pipe);
    // An error is the end of one of the two, or of the process.
    let _ = copy_input(stream, &mut pipe, child);
    let _ = stream.shutdown(Shutdown::Both);
}

/// From a stream into a terminal whose writes do not block. Its end leaves the terminal as it is.
pub fn keyboard(stream: &Socket, master: OwnedFd, child: &Child) {
    let mut master = File::from(master);
    let _ = copy_input(stream, &mut master, child);
}

fn copy_input(mut stream: &Socket, sink: &mut File, child: &Child) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let [readable, ended] = wait_ready(
            [
                (stream.as_fd(), PollFlags::POLLIN),
                (child.event(), PollFlags::POLLIN),
            ],
            None,
        )?;
        if !ended.is_empty() {
            return Ok(());
        }
        if readable.is_empty() {
            continue;
        }
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        write_all(sink, buffer.get(..length).unwrap_or_default(), child)?;
    }
}

/// Writes everything, unless the process ends first.
fn write_all(sink: &mut File, mut bytes: &[u8], child: &Child) -> io::Result<()> {
    while !bytes.is_empty() {
        let [_, ended] = wait_ready(
            [
                (sink.as_fd(), PollFlags::POLLOUT),
                (child.event(), PollFlags::POLLIN),
            ],
            None,
        )?;
        if !ended.is_empty() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        match sink.write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lets a terminal's client close its end first: a unix socket that is closed
/// with input unread ends in an error for the client, and not in an end.
pub fn linger(mut stream: &Socket) {
    let _ = stream.set_read_timeout(Some(LINGER));
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}
