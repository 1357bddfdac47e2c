//! What commands say to the monitor of a microVM.

use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::SOCKET;
use super::output::{OWN_LOG, own_log};
use super::protocol::{Answer, Frame, Kind, MAX_PAYLOAD, Request, frame, read_frame, receive, send};
use crate::container::Resources;
use crate::sockets;
use crate::state::{Container, Exit, Records, StateError};
use crate::timeline::Mark;

/// How long it is tried to find a monitor, or to become the one who starts it.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A monitor cannot be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It cannot be started.
    #[error("cannot run {program:?}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection to it.
    #[error("cannot talk to the monitor of the microVM")]
    Socket(#[source] io::Error),
    /// It ended before it had answered.
    #[error("the monitor of the microVM ended: {0}")]
    Ended(String),
    /// It neither takes requests nor ends.
    #[error("the monitor of the microVM {0} does not answer; koya rm -f removes it")]
    Silent(String),
    /// What is written down of it.
    #[error(transparent)]
    State(#[from] StateError),
    /// It says why not.
    #[error("{message}")]
    Refused {
        /// Why, in a line.
        message: String,
        /// The exit code of a command that failed so.
        code: u8,
    },
}

/// The program that becomes a monitor: it has to call [`serve`](super::serve) with its standard input as the first socket.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// Its arguments; the id of the microVM follows.
    pub arguments: Vec<String>,
}

/// A connection over which a container's streams go.
pub struct Connection {
    socket: UnixStream,
    marks: Vec<Mark>,
}

/// What comes over a [`Connection`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The container wrote this, or its terminal did.
    Stdout(&'a [u8]),
    /// The container wrote this as an error.
    Stderr(&'a [u8]),
    /// It has ended.
    Exit(Exit),
    /// The monitor is gone, and with it the container.
    Lost,
}

/// Starts a container, and its microVM if that does not run. `asked` is given the socket while the answer is waited for:
/// shutting it down gives up a microVM that boots. With `attach`, all that the container writes comes over the connection.
///
/// # Errors
/// [`MonitorError`]
pub fn start(
    records: &Records,
    program: &Program,
    container: &Container,
    attach: bool,
    mut asked: impl FnMut(&UnixStream),
) -> Result<Connection, MonitorError> {
    let request = Request::Start {
        container: container.id.clone(),
        attach,
    };
    let folder = records.vm_folder(&container.vm);
    let said = fs::metadata(folder.join(OWN_LOG)).map_or(0, |log| log.len());
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let socket = match records.runs(&container.vm) {
            true => sockets::connect(&folder.join(SOCKET)).ok(),
            false => Some(spawn(program, &container.vm, &folder)?),
        };
        if let Some(socket) = socket {
            asked(&socket);
            if let Some(marks) = ask(&socket, &request, &folder, said)? {
                return Ok(Connection { socket, marks });
            }
        }
        thread::sleep(PAUSE);
    }
    Err(MonitorError::Silent(container.vm.clone()))
}

/// Attaches to a container that runs: what it writes from now on comes over the connection.
///
/// # Errors
/// [`MonitorError`]
pub fn attach(records: &Records, container: &Container) -> Result<Connection, MonitorError> {
    let request = Request::Attach {
        container: container.id.clone(),
    };
    let folder = records.vm_folder(&container.vm);
    let socket = sockets::connect(&folder.join(SOCKET)).map_err(MonitorError::Socket)?;
    match ask(&socket, &request, &folder, 0)? {
        Some(marks) => Ok(Connection { socket, marks }),
        None => Err(MonitorError::Ended("it goes down".to_owned())),
    }
}

/// Ends the output of a container: whoever goes on writing in it gets to know that nobody reads.
///
/// # Errors
/// [`MonitorError`]
pub fn hang_up(records: &Records, container: &Container) -> Result<(), MonitorError> {
    let id = container.id.clone();
    tell(records, container, &Request::HangUp { container: id })
}

/// Freezes a container that runs, or lets it go on.
///
/// # Errors
/// [`MonitorError`]
pub fn freeze(records: &Records, container: &Container, frozen: bool) -> Result<(), MonitorError> {
    let id = container.id.clone();
    tell(
        records,
        container,
        &Request::Freeze {
            container: id,
            frozen,
        },
    )
}

/// Gives a container other limits: at once if it runs, otherwise from its next start on. What is `None` stays as it is.
///
/// # Errors
/// [`MonitorError`]
pub fn update(records: &Records, container: &Container, limits: &Resources) -> Result<(), MonitorError> {
    let request = Request::Update {
        container: container.id.clone(),
        limits: limits.clone(),
    };
    let start = Instant::now();
    loop {
        if records.runs(&container.vm) {
            match tell(records, container, &request) {
                // It goes down, or comes up, and is another one in a moment.
                Err(MonitorError::Ended(_) | MonitorError::Socket(_)) if start.elapsed() < PATIENCE => {}
                outcome => return outcome,
            }
        } else if let Some(_lock) = records.lock_vm(&container.vm)? {
            let unknown = || StateError::Unknown(container.id.clone());
            let mut container = records.look(&container.id).ok_or_else(unknown)?;
            let updated = container.settings.spec.resources.updated(limits);
            container.settings.spec.resources = updated;
            return Ok(records.save(&container)?);
        } else if start.elapsed() > PATIENCE {
            return Err(MonitorError::Silent(container.vm.clone()));
        }
        thread::sleep(PAUSE);
    }
}

fn tell(records: &Records, container: &Container, request: &Request) -> Result<(), MonitorError> {
    let folder = records.vm_folder(&container.vm);
    let socket = sockets::connect(&folder.join(SOCKET)).map_err(MonitorError::Socket)?;
    match ask(&socket, request, &folder, 0)? {
        Some(_) => Ok(()),
        None => Err(MonitorError::Ended("it goes down".to_owned())),
    }
}

/// Removes a container by its microVM's monitor; `false` if there is none.
///
/// # Errors
/// [`MonitorError`]
pub fn remove(records: &Records, container: &Container, force: bool) -> Result<bool, MonitorError> {
    let request = Request::Remove {
        container: container.id.clone(),
        force,
    };
    let folder = records.vm_folder(&container.vm);
    match sockets::connect(&folder.join(SOCKET)) {
        Ok(socket) => Ok(ask(&socket, &request, &folder, 0)?.is_some()),
        Err(_) => Ok(false),
    }
}

/// Asks for something, and gets to know when what was done; `None` if the monitor goes down.
/// `said` is how much the monitor's own log had before.
fn ask(
    socket: &UnixStream,
    request: &Request,
    folder: &Path,
    said: u64,
) -> Result<Option<Vec<Mark>>, MonitorError> {
    let answer = send(socket, request).and_then(|()| receive(socket));
    match answer {
        Ok(Answer::Done { marks }) => Ok(Some(marks)),
        Ok(Answer::Busy {}) => Ok(None),
        Ok(Answer::Failed { message, code }) => Err(MonitorError::Refused { message, code }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(MonitorError::Socket(error)),
        Err(error) => Err(MonitorError::Ended(
            last_words(folder, said).unwrap_or_else(|| error.to_string()),
        )),
    }
}

/// The last line that a monitor wrote in its own log, behind what was there before.
fn last_words(folder: &Path, before: u64) -> Option<String> {
    let text = fs::read(folder.join(OWN_LOG)).ok()?;
    let text = text.get(usize::try_from(before).ok()?..)?;
    String::from_utf8_lossy(text).lines().last().map(str::to_owned)
}

fn spawn(program: &Program, vm: &str, folder: &Path) -> Result<UnixStream, MonitorError> {
    let failed = |source| MonitorError::Spawn {
        program: program.path.clone(),
        source,
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let log = own_log(folder).map_err(failed)?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .arg(vm)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .current_dir(folder);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory.
    unsafe {
        // Neither the keys nor the end of the terminal from which it was started concern it.
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
    let mut child = command.spawn().map_err(failed)?;
    // A monitor lives longer than most who start it; this one sees to those that do not.
    thread::spawn(move || child.wait());
    Ok(ours)
}

impl Connection {
    /// The same connection for another thread.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        Ok(Self {
            socket,
            marks: Vec::new(),
        })
    }

    /// When what was done to start the container.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// A buffer for [`Connection::next_event`].
    pub fn buffer() -> Vec<u8> {
        vec![0; MAX_PAYLOAD]
    }

    /// Waits for what comes next.
    pub fn next_event<'a>(&self, buffer: &'a mut [u8]) -> Event<'a> {
        loop {
            // Borrowed anew for each frame that is skipped, which the borrow checker cannot see through.
            let (kind, len) = match read_frame(&self.socket, buffer) {
                Ok(Some((kind, payload))) => (kind, payload.len()),
                _ => return Event::Lost,
            };
            let payload = match kind {
                Kind::Stdout | Kind::Stderr | Kind::Exit => buffer.get(..len).unwrap_or_default(),
                _ => continue,
            };
            return match kind {
                Kind::Stdout => Event::Stdout(payload),
                Kind::Stderr => Event::Stderr(payload),
                _ => serde_json::from_slice(payload).map_or(Event::Lost, Event::Exit),
            };
        }
    }

    /// Gives the container what `source` reads until its end or until `source` fails; that is an error.
    ///
    /// # Errors
    /// Those of the source. A container that takes no more is none.
    pub fn feed(&self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut frame = Frame::new();
        loop {
            let len = read(frame.payload())?;
            if len == 0 {
                break;
            }
            if (&self.socket).write_all(frame.seal(Kind::Stdin, len)).is_err() {
                return Ok(());
            }
        }
        let _ = self.end_stdin();
        Ok(())
    }

    /// There is no more input.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub fn end_stdin(&self) -> io::Result<()> {
        (&self.socket).write_all(&frame(Kind::StdinEnd, b""))
    }

    /// Ends the connection; the container goes on.
    pub fn leave(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
