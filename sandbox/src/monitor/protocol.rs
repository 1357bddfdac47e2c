//! What is said over a monitor's socket: one request and its answer, a line of JSON each, and then, if the client is
//! attached, frames in both directions.
//!
//! ```text
//!  {"start":{"container":"0123456789ab","attach":true}}
//!  {"done":{"marks":[]}}
//!  ┌──────┬────────────┬─────────┐
//!  │ kind │ length, LE │ payload │   …
//!  └─ 1 ──┴──── 4 ─────┴ ≤ 64 Ki ┘
//! ```

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ends::one_line;
use crate::container::Resources;
use crate::timeline::Mark;

/// Longest line of a request or an answer.
const MAX_LINE: usize = 64 << 10;
/// Longest payload of a frame.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;
/// Bytes before the payload.
pub(crate) const HEADER: usize = 5;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Start a container that does not run.
    #[serde(rename_all = "camelCase")]
    Start {
        /// Its id.
        container: String,
        /// Whether frames follow, from its first output on.
        attach: bool,
    },
    /// Frames of a container that runs, from now on.
    #[serde(rename_all = "camelCase")]
    Attach {
        /// Its id.
        container: String,
    },
    /// End the output of a container: nobody reads it any more.
    #[serde(rename_all = "camelCase")]
    HangUp {
        /// Its id.
        container: String,
    },
    /// Freeze a container, or let it go on.
    #[serde(rename_all = "camelCase")]
    Freeze {
        /// Its id.
        container: String,
        /// Which of both.
        frozen: bool,
    },
    /// Give a container other limits, whether it runs or not.
    #[serde(rename_all = "camelCase")]
    Update {
        /// Its id.
        container: String,
        /// What is `None` stays as it is.
        limits: Resources,
    },
    /// Remove a container.
    #[serde(rename_all = "camelCase")]
    Remove {
        /// Its id.
        container: String,
        /// Kill it if it runs.
        force: bool,
    },
}

/// What a monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// It is done.
    #[serde(rename_all = "camelCase")]
    Done {
        /// When what was done.
        #[serde(default)]
        marks: Vec<Mark>,
    },
    /// The microVM is going down, or is another monitor's: ask again, from the beginning.
    Busy {},
    /// It cannot be done.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// Why, in a line.
        message: String,
        /// The exit code of a command that failed so.
        code: u8,
    },
}

impl Answer {
    /// That it is done.
    pub fn done() -> Self {
        Self::Done { marks: Vec::new() }
    }

    /// That it cannot be done, because of an error and its causes.
    pub fn failed(error: &dyn std::error::Error, code: u8) -> Self {
        let message = one_line(error);
        Self::Failed { message, code }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Input for the container.
    Stdin = 0,
    /// Its output, or its terminal's.
    Stdout = 1,
    /// Its errors.
    Stderr = 2,
    /// How it ended, as JSON; nothing follows.
    Exit = 3,
    /// There is no more input.
    StdinEnd = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let all = [
            Self::Stdin,
            Self::Stdout,
            Self::Stderr,
            Self::Exit,
            Self::StdinEnd,
        ];
        all.into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// Sends a line.
pub(crate) fn send(mut socket: &UnixStream, said: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// Receives a line.
pub(crate) fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    // By the byte: what follows the line are frames.
    while line.len() < MAX_LINE {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(serde_json::from_slice(&line)?),
            byte => line.extend(byte),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// A buffer in which a payload has its header before it, so that both are sent at once.
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    /// An empty one.
    pub fn new() -> Self {
        Self(vec![0; HEADER.saturating_add(MAX_PAYLOAD)])
    }

    /// Where the payload goes.
    pub fn payload(&mut self) -> &mut [u8] {
        self.0.get_mut(HEADER..).unwrap_or_default()
    }

    /// The whole frame, with a payload of `len` bytes.
    pub fn seal(&mut self, kind: Kind, len: usize) -> &[u8] {
        let len = len.min(MAX_PAYLOAD);
        let [one, two, three, four] = u32::try_from(len).unwrap_or_default().to_le_bytes();
        if let Some(header) = self.0.first_chunk_mut::<HEADER>() {
            *header = [kind as u8, one, two, three, four];
        }
        self.0.get(..HEADER.saturating_add(len)).unwrap_or_default()
    }
}

/// A frame with a payload of at most [`MAX_PAYLOAD`]; what is beyond is cut off.
pub(crate) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Frame::new();
    let len = payload.len().min(MAX_PAYLOAD);
    frame
        .payload()
        .iter_mut()
        .zip(payload)
        .for_each(|(to, from)| *to = *from);
    frame.seal(kind, len).to_vec()
}

/// Reads the next frame into `buffer`; `None` at the end.
pub(crate) fn read_frame(mut socket: impl Read, buffer: &mut [u8]) -> io::Result<Option<(Kind, &[u8])>> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut header = [0; HEADER];
    match socket.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let [kind, one, two, three, four] = header;
    let kind = Kind::from_byte(kind).ok_or_else(wrong)?;
    let len = usize::try_from(u32::from_le_bytes([one, two, three, four])).map_err(|_| wrong())?;
    let payload = buffer.get_mut(..len).ok_or_else(wrong)?;
    socket.read_exact(payload)?;
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_frames_follow_each_other() {
        let (one, other) = UnixStream::pair().unwrap();
        let request = Request::Start {
            container: "0123456789ab".into(),
            attach: true,
        };
        send(&one, &request).unwrap();
        (&one).write_all(&frame(Kind::Stdin, b"hello")).unwrap();
        (&one).write_all(&frame(Kind::StdinEnd, b"")).unwrap();
        drop(one);
        assert_eq!(receive::<Request>(&other).unwrap(), request);
        let mut buffer = vec![0; MAX_PAYLOAD];
        let first = read_frame(&other, &mut buffer).unwrap();
        assert_eq!(first, Some((Kind::Stdin, &b"hello"[..])));
        let second = read_frame(&other, &mut buffer).unwrap();
        assert_eq!(second, Some((Kind::StdinEnd, &b""[..])));
        assert_eq!(read_frame(&other, &mut buffer).unwrap(), None);
    }

    #[test]
    fn nonsense_is_an_error_and_no_memory() {
        let mut buffer = vec![0; MAX_PAYLOAD];
        for bytes in [
            &[9, 0, 0, 0, 0][..],
            &[0, 0xff, 0xff, 0xff, 0xff],
            &[0, 2, 0, 0, 0, 1],
        ] {
            assert!(read_frame(bytes, &mut buffer).is_err(), "{bytes:?}");
        }
        let (one, other) = UnixStream::pair().unwrap();
        (&one).write_all(b"{\"start\":7}\n").unwrap();
        assert!(receive::<Request>(&other).is_err());
        let flood = std::thread::spawn(move || while (&one).write_all(&[b'x'; 4096]).is_ok() {});
        assert!(receive::<Request>(&other).is_err());
        drop(other);
        flood.join().unwrap();
    }
}
