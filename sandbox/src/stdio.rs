//! The streams of a process in the guest, each a connection of its own.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use koya_proto::stream::{self, Token};
use koya_proto::{STREAM_PORT, v1};

use crate::hybrid;

/// The agent accepts at once; an emulated host is slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which streams a process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A terminal of this many rows and columns.
    Terminal {
        /// Characters; 0 if unknown.
        rows: u16,
        /// Characters; 0 if unknown.
        columns: u16,
    },
    /// Output and errors, and input if it is wanted.
    Pipes {
        /// Whether the process can read what is written to it.
        stdin: bool,
    },
}

/// The host's ends of the streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// What the process reads. Closing it for writing is the end of its input.
    pub stdin: Option<UnixStream>,
    /// What it writes.
    pub stdout: Option<UnixStream>,
    /// What it writes as errors.
    pub stderr: Option<UnixStream>,
    /// Both directions of its terminal.
    pub terminal: Option<UnixStream>,
}

/// Opens the streams through `vsock`. The request that names them has to follow within
/// [`TOKEN_WAIT`](stream::TOKEN_WAIT).
///
/// # Errors
/// When the guest does not take a connection, or the host has no random numbers.
pub fn open(vsock: &Path, wanted: Wanted) -> io::Result<(v1::Stdio, Streams)> {
    let mut named = v1::Stdio::new();
    let mut streams = Streams::default();
    match wanted {
        Wanted::Terminal { rows, columns } => {
            streams.terminal = Some(connect(vsock, &mut named.terminal)?);
            let mut size = v1::TerminalSize::new();
            size.rows = rows.into();
            size.columns = columns.into();
            named.size = Some(size).into();
        }
        Wanted::Pipes { stdin } => {
            if stdin {
                streams.stdin = Some(connect(vsock, &mut named.stdin)?);
            }
            streams.stdout = Some(connect(vsock, &mut named.stdout)?);
            streams.stderr = Some(connect(vsock, &mut named.stderr)?);
        }
    }
    Ok((named, streams))
}

/// Opens one stream, and writes its token into the field of the request that names it.
///
/// # Errors
/// As [`open`].
pub fn connect(vsock: &Path, field: &mut Vec<u8>) -> io::Result<UnixStream> {
    let token = Token::random()?;
    let mut connection = hybrid::connect(vsock, STREAM_PORT, PATIENCE)?;
    connection.write_all(&stream::encode(token))?;
    *field = token.to_field();
    Ok(connection)
}
