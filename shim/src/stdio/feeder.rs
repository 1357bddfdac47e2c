//! What is typed, on its way to a process.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use crate::error::TaskError;

/// Bytes moved at once.
const PIECE: usize = 64 << 10;

/// Moves bytes until there are no more, or this is dropped: then what is there already is moved, and that is the end.
#[derive(Debug)]
pub struct Feeder {
    /// Its end says that no more is wanted.
    _open: PipeWriter,
}

impl Feeder {
    /// To a process's input, whose end it is.
    ///
    /// # Errors
    /// [`TaskError::System`]
    pub fn to_pipe(source: File, sink: PipeWriter) -> Result<Self, TaskError> {
        Self::start(source, OwnedFd::from(sink).into(), false)
    }

    /// To a terminal, which stays.
    ///
    /// # Errors
    /// [`TaskError::System`]
    pub fn to_terminal(source: File, sink: File) -> Result<Self, TaskError> {
        Self::start(source, sink, true)
    }

    fn start(source: File, sink: File, gives_up: bool) -> Result<Self, TaskError> {
        let (closing, open) = io::pipe().map_err(TaskError::system("make a pipe"))?;
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || feed(&source, &sink, &closing, gives_up))
            .map_err(TaskError::system("start a thread"))?;
        Ok(Self { _open: open })
    }
}

fn feed(mut source: &File, sink: &File, closing: &PipeReader, gives_up: bool) {
    let mut buffer = vec![0; PIECE];
    loop {
        let Some([readable, closed]) = ready(source, PollFlags::IN, closing) else {
            return;
        };
        if readable {
            match source.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    if write(sink, bytes, closing, gives_up).is_err() {
                        return;
                    }
                }
                Err(error) if can_wait(&error) => {}
                Err(_) => return,
            }
        } else if closed {
            return;
        }
    }
}

/// Writes all of it; a terminal nobody reads from is given up when it is over.
fn write(mut sink: &File, mut bytes: &[u8], closing: &PipeReader, gives_up: bool) -> io::Result<()> {
    while !bytes.is_empty() {
        if gives_up {
            match ready(sink, PollFlags::OUT, closing) {
                Some([true, _]) => {}
                Some([false, true]) | None => return Err(io::ErrorKind::BrokenPipe.into()),
                Some(_) => continue,
            }
        }
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if can_wait(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn can_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Waits until something can be done with `file`, or no more is wanted: which of them is so. An error of the file counts as
/// the first: whoever tries is told.
fn ready(file: &File, events: PollFlags, closing: &PipeReader) -> Option<[bool; 2]> {
    let mut polled = [
        PollFd::from_borrowed_fd(file.as_fd(), events),
        PollFd::from_borrowed_fd(closing.as_fd(), PollFlags::IN),
    ];
    match poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Some(polled.each_ref().map(|one| !one.revents().is_empty())),
        Err(_) => None,
    }
}
