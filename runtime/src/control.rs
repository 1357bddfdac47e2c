//! What commands ask of a monitor: one line of JSON each way, over `m.sock` in the container's folder.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use koya_sandbox::{Kind, sockets};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RuntimeError;

/// Longest line: limits for an update are the largest thing that is sent.
const MAX_LINE: u64 = 1 << 20;

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Run the program.
    Start,
    /// Send a signal to the first process, or to all.
    Kill {
        /// Its number.
        signal: u32,
        /// To every process.
        all: bool,
    },
    /// Freeze everything.
    Pause,
    /// Thaw it.
    Resume,
    /// New limits.
    Update(Value),
    /// What is used.
    Stats,
    /// Which processes were asked for.
    Processes,
}

impl Request {
    /// Whether it is the end.
    pub fn kills(&self) -> bool {
        matches!(self, Self::Kill { signal, .. } if *signal == libc::SIGKILL.cast_unsigned())
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is done; null, or what was asked for.
    Done(Value),
    /// It is not.
    Failed(Told),
}

/// What another process of a container says of its failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(from = "Heard")]
pub struct Told {
    /// What kind of error it is.
    pub kind: Kind,
    /// What was wrong, in one line.
    pub message: String,
}

impl Told {
    /// Something of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }
}

impl From<&RuntimeError> for Told {
    fn from(error: &RuntimeError) -> Self {
        Self::new(error.kind(), error.one_line())
    }
}

/// The same, as monitors say it that were started by this version, and by those before it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Heard {
    Told { kind: Value, message: String },
    Text(String),
}

impl From<Heard> for Told {
    fn from(heard: Heard) -> Self {
        match heard {
            // A later one may know more kinds.
            Heard::Told { kind, message } => Self {
                kind: serde_json::from_value(kind).unwrap_or(Kind::Other),
                message,
            },
            Heard::Text(message) => Self::new(Kind::Other, message),
        }
    }
}

/// The monitor's socket in a container's folder.
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("m.sock")
}

/// Asks the monitor of the container in `folder`.
///
/// # Errors
/// [`RuntimeError::Told`], [`RuntimeError::Gone`]
pub fn ask(folder: &Path, id: &str, request: &Request) -> Result<Value, RuntimeError> {
    let gone = |_| RuntimeError::Gone(id.to_owned());
    let stream = sockets::connect(&socket(folder)).map_err(gone)?;
    // A monitor that has no room may refuse before it has read anything: what it said is there, though nothing can be sent.
    let _ = send(&stream, request);
    match receive(&stream).map_err(gone)? {
        Answer::Done(value) => Ok(value),
        Answer::Failed(told) => Err(told.into()),
    }
}

/// Sends a line.
///
/// # Errors
/// When the other end has gone.
pub fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Receives a line.
///
/// # Errors
/// When the other end has gone, or sends something else.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    // One line is all that comes until it is answered, so that nothing after it is lost with the buffer.
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_and_half_a_line_does_not() {
        let (one, other) = UnixStream::pair().unwrap();
        let request = Request::Kill {
            signal: 15,
            all: true,
        };
        send(&one, &request).unwrap();
        assert_eq!(receive::<Request>(&other).unwrap(), request);
        (&one).write_all(b"\"Sta").unwrap();
        drop(one);
        assert!(receive::<Request>(&other).is_err());
    }

    #[test]
    fn a_failure_keeps_its_kind_and_those_before_had_none() {
        let told = Answer::Failed(Told::new(Kind::Exists, "it is there"));
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), told);
        let before = serde_json::from_str::<Answer>(r#"{"failed":"no luck"}"#).unwrap();
        assert_eq!(before, Answer::Failed(Told::new(Kind::Other, "no luck")));
    }

    #[test]
    fn who_is_refused_unheard_is_told_so() {
        let folder = std::env::temp_dir().join(format!("koya-control-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = sockets::listen(&socket(&folder)).unwrap();
        let refusing = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            send(&stream, &Answer::Failed(Told::new(Kind::Limit, "try again"))).unwrap();
        });
        // More than the socket holds, so that it cannot all be sent.
        let request = Request::Update("x".repeat(1 << 20).into());
        let error = ask(&folder, "web", &request).unwrap_err();
        refusing.join().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(
            (error.kind(), error.one_line().as_str()),
            (Kind::Limit, "try again")
        );
    }
}
