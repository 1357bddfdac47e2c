//! A process whose streams come from the agent: another one in a container, of which the monitor knows nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use koya_proto::client::{AgentClient, ProcessId};
use koya_proto::v1;
use koya_sandbox::patient::{read_some, write_all};
use koya_sandbox::stdio::{self, Streams, Wanted};

use super::{Attachment, framed};
use crate::error::CliError;
use crate::signals::Relay;
use crate::terminal::{self, RawTerminal};

/// Bytes moved at once: as much as a pipe holds.
const PIECE: usize = 64 << 10;

/// Opens the streams, has `begin` begin the process with them, and stays until it has ended; how it did.
///
/// # Errors
/// [`CliError`]
pub fn run(
    agent: &AgentClient,
    vsock: &Path,
    process: &ProcessId,
    attachment: Attachment,
    relay: &Relay,
    begin: impl FnOnce(v1::Stdio) -> Result<(), CliError>,
) -> Result<v1::Exit, CliError> {
    let wanted = if attachment.tty {
        let (rows, columns) = terminal::size();
        Wanted::Terminal { rows, columns }
    } else {
        Wanted::Pipes {
            stdin: attachment.interactive,
        }
    };
    let (named, streams) = stdio::open(vsock, wanted).map_err(CliError::Streams)?;
    begin(named)?;
    let shared = agent.clone();
    framed::pass_signals_on(move || Some(shared.clone()), process, relay, attachment);
    // After the start, so that a refusal is told on a terminal as it was.
    let raw = if attachment.tty && attachment.interactive {
        Some(RawTerminal::enter().map_err(CliError::Terminal)?)
    } else {
        None
    };
    if attachment.tty {
        // It may have changed meanwhile.
        let (rows, columns) = terminal::size();
        let _ = agent.resize(process, rows, columns);
    }
    let output = connect(streams, attachment.interactive)?;
    let exit = agent.wait(process, None)?;
    let mut lost = None;
    for thread in output {
        lost = thread.join().unwrap_or(Ok(())).err().or(lost);
    }
    drop(raw);
    match lost {
        Some(error) => Err(CliError::OutputLost(error)),
        None => Ok(exit),
    }
}

/// Joins the streams to this program's. The threads returned end with the process's output; the one that reads
/// standard input may never end, and nobody waits for it.
fn connect(streams: Streams, interactive: bool) -> Result<Vec<JoinHandle<io::Result<()>>>, CliError> {
    let own = |stream: &dyn Fn() -> io::Result<File>| stream().map_err(CliError::Streams);
    let mut output = Vec::new();
    let stdin = match &streams.terminal {
        Some(terminal) if interactive => Some(terminal.try_clone().map_err(CliError::Streams)?),
        _ => streams.stdin,
    };
    if let Some(stdin) = stdin {
        let source = own(&|| Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?)))?;
        thread::spawn(move || feed(&source, &stdin));
    }
    let to_stdout = streams.terminal.or(streams.stdout);
    if let Some(stream) = to_stdout {
        let sink = own(&|| Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)))?;
        output.push(thread::spawn(move || drain(stream, &sink)));
    }
    if let Some(stream) = streams.stderr {
        let sink = own(&|| Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)))?;
        output.push(thread::spawn(move || drain(stream, &sink)));
    }
    Ok(output)
}

/// Moves `source` to the process; its end is the end of the process's input.
fn feed(source: &File, mut stream: &UnixStream) {
    let mut buffer = vec![0; PIECE];
    loop {
        match read_some(source, &mut buffer) {
            Ok(0) => break,
            Ok(len) if stream.write_all(buffer.get(..len).unwrap_or_default()).is_ok() => {}
            // The process reads no more.
            Ok(_) => return,
            Err(error) => {
                let _ = writeln!(io::stderr(), "koya: cannot read standard input: {error}");
                break;
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Moves what the process writes to `sink`. When nobody reads there any more, the stream is closed, so that the process
/// gets to know it; what cannot be written otherwise is an error.
fn drain(mut stream: UnixStream, sink: &File) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        match write_all(sink, buffer.get(..len).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}
