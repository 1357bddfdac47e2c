//! This process's streams as those of a process in the guest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use koya_sandbox::patient::{read_some, write_all};
use koya_sandbox::stdio::{Streams, Wanted};

use crate::error::RuntimeError;
use crate::{console, threads};

/// Bytes moved at once: as much as a pipe holds.
const PIECE: usize = 64 << 10;
/// /dev/null's number (Linux's devices.txt).
const NULL: u64 = (1 << 8) | 3;

/// What a process of the host has for one of the guest.
#[derive(Debug)]
pub enum Own {
    /// Its own three.
    Standard,
    /// The slave of a terminal that somebody else has.
    Terminal(File),
}

impl Own {
    /// What the process in the guest is to have.
    pub fn wanted(&self) -> Wanted {
        match self {
            Self::Standard => Wanted::Pipes {
                // From /dev/null comes nothing, and the guest has one itself.
                stdin: !is_null(&rustix::stdio::stdin()),
            },
            Self::Terminal(slave) => {
                let (rows, columns) = console::size(slave);
                Wanted::Terminal { rows, columns }
            }
        }
    }

    /// The terminal, if it is one.
    pub fn terminal(&self) -> Option<&File> {
        match self {
            Self::Standard => None,
            Self::Terminal(slave) => Some(slave),
        }
    }

    /// Joins them to the guest's. The threads returned end with the process's output; the one that reads what is typed may
    /// never end, and nobody waits for it.
    ///
    /// # Errors
    /// [`RuntimeError::System`]
    pub fn connect(&self, streams: Streams) -> Result<Vec<JoinHandle<()>>, RuntimeError> {
        let failed = RuntimeError::system("copy a stream");
        self.join(streams).map_err(failed)
    }

    fn join(&self, streams: Streams) -> io::Result<Vec<JoinHandle<()>>> {
        let mut outputs = Vec::new();
        if let (Self::Terminal(slave), Some(stream)) = (self, streams.terminal) {
            let (source, input) = (slave.try_clone()?, stream.try_clone()?);
            threads::spawn("stdin", move || feed(source, &input, false))?;
            let sink = slave.try_clone()?;
            outputs.push(threads::spawn("terminal", move || drain(stream, &sink))?);
            return Ok(outputs);
        }
        if let Some(stream) = streams.stdin {
            let source = own(rustix::stdio::stdin())?;
            threads::spawn("stdin", move || feed(source, &stream, true))?;
        }
        if let Some(stream) = streams.stdout {
            let sink = own(rustix::stdio::stdout())?;
            outputs.push(threads::spawn("stdout", move || drain(stream, &sink))?);
        }
        if let Some(stream) = streams.stderr {
            let sink = own(rustix::stdio::stderr())?;
            outputs.push(threads::spawn("stderr", move || drain(stream, &sink))?);
        }
        Ok(outputs)
    }
}

fn own(stream: impl AsFd) -> io::Result<File> {
    let copy: OwnedFd = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from(copy))
}

fn is_null(stream: &impl AsFd) -> bool {
    let metadata = own(stream).and_then(|file| file.metadata());
    metadata.is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == NULL)
}

/// Moves `source` to the process. Its end is the end of the process's input, unless that is a terminal, whose end is
/// somebody going away.
fn feed(source: File, mut stream: &UnixStream, ends: bool) {
    let mut buffer = vec![0; PIECE];
    loop {
        match read_some(&source, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) if stream.write_all(buffer.get(..len).unwrap_or_default()).is_ok() => {}
            // The process reads no more.
            Ok(_) => return,
        }
    }
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// Moves what the process writes to `sink`. When nobody reads there any more, the stream is closed, so that the process
/// gets to know it.
fn drain(mut stream: UnixStream, sink: &File) {
    let mut buffer = vec![0; PIECE];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if write_all(sink, buffer.get(..len).unwrap_or_default()).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}
