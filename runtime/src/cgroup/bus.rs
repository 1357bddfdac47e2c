//! A line to systemd: its own socket, or the bus where it has a name.
//!
//! ```text
//!  ► \0 AUTH EXTERNAL, DATA, BEGIN       at once, as systemd's own programs do
//!  ◄ DATA, OK …
//!  ► calls …                             not earlier: systemd does not look again at what it has read with the greeting
//!  ◄ an answer to each call, signals
//! ```

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use koya_sandbox::rights;

use super::message::{Heard, Method, Values, call, hear};

/// How long systemd may take to do what it is asked. It hears nothing while it reloads its units.
const PATIENCE: Duration = Duration::from_secs(25);
/// Ends of jobs that are kept until it is known which one counts: on a bus all of them are told.
const MAX_ENDED: usize = 1024;
/// Longest line of the greeting.
const MAX_LINE: u64 = 1 << 10;
/// Who one is: the kernel has told the other side, and a user namespace knows it by another number.
const GREETING: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

const BUS: &str = "org.freedesktop.DBus";
const SYSTEMD: &str = "org.freedesktop.systemd1";
/// What is wanted of a bus: the ends of systemd's jobs.
const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',\
                    member='JobRemoved'";

/// What went wrong between this process and systemd.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is nobody to ask.
    #[error("cannot reach systemd at {path:?}, which --systemd-cgroup asks for")]
    Reach {
        /// Where it was looked for last.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not known where.
    #[error(
        "cannot reach the user's systemd, which --systemd-cgroup asks for: XDG_RUNTIME_DIR is not set to an absolute path; log in, \
         or use cgroups without systemd (podman --cgroup-manager cgroupfs)"
    )]
    NoSession,
    /// The line broke.
    #[error("cannot ask systemd at {path:?}")]
    Ask {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("systemd refuses: {message} ({name})")]
    Refused {
        /// The error's name.
        name: String,
        /// Its reason.
        message: String,
    },
    /// It tried in vain.
    #[error("systemd has not done it: {0}")]
    Job(String),
}

/// A line that was opened, and what there is to be said first.
pub struct Line {
    path: PathBuf,
    stream: UnixStream,
    is_bus: bool,
}

/// A method of systemd that begins a job.
pub fn manager(member: &'static str, signature: &'static str) -> Method {
    Method {
        destination: SYSTEMD,
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
        signature,
    }
}

fn bus(member: &'static str, signature: &'static str) -> Method {
    Method {
        destination: BUS,
        path: "/org/freedesktop/DBus",
        interface: BUS,
        member,
        signature,
    }
}

impl Line {
    /// Calls the host's systemd, or the one of an ordinary user.
    ///
    /// # Errors
    /// [`BusError::Reach`]
    pub fn open() -> Result<Self, BusError> {
        let [own, bus] = match rights::is_root_of_host() {
            true => ["/run/systemd/private", "/run/dbus/system_bus_socket"].map(PathBuf::from),
            false => {
                let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
                // Not below the current folder, which is whoever's made the bundle.
                let session = session
                    .filter(|path| path.is_absolute())
                    .ok_or(BusError::NoSession)?;
                ["systemd/private", "bus"].map(|name| session.join(name))
            }
        };
        Self::to(own, false).or_else(|_| Self::to(bus, true))
    }

    /// Calls a systemd at its own socket, or at that of a bus.
    pub(super) fn to(path: PathBuf, is_bus: bool) -> Result<Self, BusError> {
        let opened = UnixStream::connect(&path).and_then(|stream| {
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => Ok(Self { path, stream, is_bus }),
            Err(source) => Err(BusError::Reach { path, source }),
        }
    }

    /// Calls a method that answers with a job, and waits until that is done.
    ///
    /// # Errors
    /// [`BusError`]
    pub fn ask(self, method: Method, arguments: &Values) -> Result<(), BusError> {
        let (serial, words) = self.words(method, arguments);
        self.say(serial, &words).map_err(|failure| match failure {
            Failure::Line(source) => BusError::Ask {
                path: self.path,
                source,
            },
            Failure::Told(error) => error,
        })
    }

    /// Says it, and waits for the end of the job that the call with this number begins.
    fn say(&self, serial: u32, words: &[u8]) -> Result<(), Failure> {
        let until = Instant::now().checked_add(PATIENCE);
        let mut source = BufReader::new(Timed {
            stream: &self.stream,
            until,
        });
        (&self.stream).write_all(GREETING)?;
        greet(&mut source)?;
        (&self.stream).write_all(words)?;
        await_job(&mut source, serial)
    }

    /// All calls, and the number of the one that counts.
    fn words(&self, method: Method, arguments: &Values) -> (u32, Vec<u8>) {
        let mut words = Vec::new();
        let mut serial = 1;
        if self.is_bus {
            let mut jobs = Values::default();
            jobs.text(JOBS);
            for (method, arguments) in [
                (bus("Hello", ""), Values::default()),
                (bus("AddMatch", "s"), jobs),
                (manager("Subscribe", ""), Values::default()),
            ] {
                words.extend(call(serial, method, &arguments));
                serial = serial.saturating_add(1);
            }
        }
        words.extend(call(serial, method, arguments));
        (serial, words)
    }
}

/// The other side's half of a conversation that is to end in time, however much is said.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Option<Instant>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {PATIENCE:?}"));
        let left = self
            .until
            .and_then(|until| until.checked_duration_since(Instant::now()));
        let left = left.filter(|left| !left.is_zero()).ok_or_else(late)?;
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => late(),
            _ => error,
        })
    }
}

enum Failure {
    Line(io::Error),
    Told(BusError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Line(error)
    }
}

/// Hears the answers, and the end of the job that the call has begun: its answer may come after that.
fn await_job(source: &mut impl BufRead, serial: u32) -> Result<(), Failure> {
    let (mut job, mut ended) = (None, VecDeque::new());
    loop {
        match hear(source)? {
            Heard::Return(to, path) if to == serial => job = path,
            Heard::Error(to, name, message) if to <= serial => {
                return Err(Failure::Told(BusError::Refused { name, message }));
            }
            Heard::JobRemoved(path, result) => {
                if ended.len() >= MAX_ENDED {
                    ended.pop_front();
                }
                ended.push_back((path, result));
            }
            _ => {}
        }
        let result = ended.iter().find(|(path, _)| Some(path) == job.as_ref());
        match result.map(|(_, result)| result.as_str()) {
            None => {}
            Some("done") => return Ok(()),
            Some(other) => return Err(Failure::Told(BusError::Job(other.to_owned()))),
        }
    }
}

/// Reads the other side's half of the greeting.
fn greet(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        Read::take(&mut *source, MAX_LINE).read_until(b'\n', &mut line)?;
        match line.split(|byte| byte.is_ascii_whitespace()).next() {
            Some(b"DATA") => {}
            Some(b"OK") => return Ok(()),
            Some(b"") => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it does not take this user",
                ));
            }
        }
    }
}
