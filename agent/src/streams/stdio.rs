//! The standard streams of one process: descriptors for the process, pumps for
//! the agent, and the moment when all output has gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};

use koya_proto::stream::Token;
use koya_proto::v1;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::broker::{Broker, Event, Ticket};
use super::pump::{self, Socket, Unread};
use super::spawn;
use crate::children::Child;
use crate::error::{Result, invalid, runtime, state};
use crate::sys::{Deadline, lock, resize_terminal, set_nonblocking};

/// A terminal's size in characters; 0 is left to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    rows: u16,
    columns: u16,
}

impl Size {
    /// From a message; absent: 0 by 0.
    pub fn from_message(size: &v1::TerminalSize) -> Result<Self> {
        let number = |value: u32, name| {
            u16::try_from(value)
                .map_err(|_| invalid(format!("size.{name} is {value}; a terminal has at most 65535")))
        };
        let (rows, columns) = (number(size.rows, "rows")?, number(size.columns, "columns")?);
        Ok(Self { rows, columns })
    }
}

/// What a process is given as descriptors 0, 1 and 2.
pub struct ChildEnds {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// A process's streams before it exists: tokens are taken, pipes are open.
pub enum Stdio {
    /// Three pipes.
    Pipes {
        /// The agent's end of stdin.
        stdin: Option<(Ticket, OwnedFd)>,
        /// The agent's end of stdout.
        stdout: Option<(Ticket, OwnedFd)>,
        /// The agent's end of stderr.
        stderr: Option<(Ticket, OwnedFd)>,
        /// What becomes of output that nobody takes any more.
        unread: Unread,
    },
    /// A terminal, whose master comes when the process does.
    Terminal {
        /// The one stream, if it has one.
        ticket: Option<Ticket>,
        /// Its first size.
        size: Size,
    },
}

impl Stdio {
    /// Takes the tokens of a request and opens pipes for them.
    pub fn prepare(broker: &Arc<Broker>, wanted: &v1::Stdio, terminal: bool) -> Result<(Self, ChildEnds)> {
        let ticket = |field: &[u8], name| -> Result<Option<Ticket>> {
            let token =
                Token::from_field(field).map_err(|error| invalid(format!("stdio.{name}: {error}")))?;
            token.map(|token| broker.expect(token)).transpose()
        };
        if terminal {
            let used = [
                ("stdin", &wanted.stdin),
                ("stdout", &wanted.stdout),
                ("stderr", &wanted.stderr),
            ];
            if let Some((name, _)) = used.iter().find(|(_, field)| !field.is_empty()) {
                return Err(invalid(format!(
                    "stdio.{name} is set, but process.terminal is true: its one stream is stdio.terminal"
                )));
            }
            let size = Size::from_message(wanted.size.get_or_default())?;
            let ticket = ticket(&wanted.terminal, "terminal")?;
            return Ok((Self::Terminal { ticket, size }, ChildEnds::null()?));
        }
        if !wanted.terminal.is_empty() {
            return Err(invalid("stdio.terminal is set, but process.terminal is not true"));
        }
        let mut ends = ChildEnds::null()?;
        let pipe = |ticket: Option<Ticket>, end: &mut OwnedFd, input: bool| -> Result<_> {
            let Some(ticket) = ticket else { return Ok(None) };
            let (reading, writing) =
                pipe2(OFlag::O_CLOEXEC).map_err(|errno| runtime("open a pipe")(errno.into()))?;
            let (ours, theirs) = if input {
                (writing, reading)
            } else {
                (reading, writing)
            };
            *end = theirs;
            Ok(Some((ticket, ours)))
        };
        let stdin = pipe(ticket(&wanted.stdin, "stdin")?, &mut ends.stdin, true)?;
        let stdout = pipe(ticket(&wanted.stdout, "stdout")?, &mut ends.stdout, false)?;
        let stderr = pipe(ticket(&wanted.stderr, "stderr")?, &mut ends.stderr, false)?;
        if let Some((_, pipe)) = &stdin {
            set_nonblocking(pipe).map_err(runtime("prepare a pipe"))?;
        }
        Ok((
            Self::Pipes {
                stdin,
                stdout,
                stderr,
                unread: if wanted.hang_up {
                    Unread::HangUp
                } else {
                    Unread::Drop
                },
            },
            ends,
        ))
    }

    /// Rows and columns of the terminal; 0 by 0 without one.
    pub fn size(&self) -> (u16, u16) {
        match self {
            Self::Terminal { size, .. } => (size.rows, size.columns),
            Self::Pipes { .. } => (0, 0),
        }
    }

    /// Starts to copy for a process that exists.
    pub fn connect(self, child: &Arc<Child>, terminal: Option<OwnedFd>) -> Result<Arc<Streams>> {
        let streams = Arc::new(Streams::default());
        let failed = runtime("start a thread for a stream");
        let outcome = match (self, terminal) {
            (
                Self::Pipes {
                    stdin,
                    stdout,
                    stderr,
                    unread,
                },
                _,
            ) => (|| {
                for (ticket, pipe) in [stdout, stderr].into_iter().flatten() {
                    streams.start_output(child, ticket, pipe, unread)?;
                }
                stdin.map_or(Ok(()), |(ticket, pipe)| streams.start_input(child, ticket, pipe))
            })(),
            (Self::Terminal { ticket, size }, Some(master)) => {
                streams.start_terminal(child, ticket, size, master)
            }
            (Self::Terminal { .. }, None) => Err(io::Error::other("the runtime sent no terminal")),
        };
        outcome.map_err(failed)?;
        Ok(streams)
    }
}

impl ChildEnds {
    fn null() -> Result<Self> {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).open("/dev/null");
            file.map(OwnedFd::from).map_err(runtime("open /dev/null"))
        };
        Ok(Self {
            stdin: open()?,
            stdout: open()?,
            stderr: open()?,
        })
    }
}

#[derive(Default)]
struct Undrained {
    outputs: usize,
    sockets: Vec<Socket>,
}

/// A process's streams while it lives, and until its output has gone.
#[derive(Default)]
pub struct Streams {
    state: Mutex<Undrained>,
    changed: Condvar,
    master: Mutex<Option<OwnedFd>>,
}

impl Streams {
    /// Waits until all output has been delivered or given up.
    pub fn wait_drained(&self, deadline: Deadline) -> bool {
        let mut state = lock(&self.state);
        while state.outputs > 0 {
            state = match deadline.left() {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => match self.changed.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
            };
        }
        true
    }

    /// Breaks off: pumps that wait for a slow client end.
    pub fn abort(&self) {
        for socket in &lock(&self.state).sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Sets the terminal's size.
    pub fn resize(&self, size: Size) -> Result<()> {
        match &*lock(&self.master) {
            Some(master) => {
                resize_terminal(master, size.rows, size.columns).map_err(runtime("resize the terminal"))
            }
            None => Err(state("this process has no terminal")),
        }
    }

    /// Remembers a stream, so that [`Streams::abort`] finds it.
    fn keep(&self, socket: &Socket) {
        if let Ok(copy) = socket.try_clone() {
            lock(&self.state).sockets.push(copy);
        }
    }

    fn begin_output(&self) {
        let mut state = lock(&self.state);
        state.outputs = state.outputs.saturating_add(1);
    }

    fn drained(&self) {
        let mut state = lock(&self.state);
        state.outputs = state.outputs.saturating_sub(1);
        if state.outputs == 0 {
            // They would keep connections open.
            state.sockets.clear();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn start_output(
        self: &Arc<Self>,
        child: &Arc<Child>,
        ticket: Ticket,
        pipe: OwnedFd,
        unread: Unread,
    ) -> io::Result<()> {
        tell_end(child, &ticket);
        self.begin_output();
        let (streams, child) = (Arc::clone(self), Arc::clone(child));
        spawn("output", move || {
            let stream = pump::await_stream(&ticket);
            stream.iter().for_each(|stream| streams.keep(stream));
            pump::output(File::from(pipe), &child, stream.as_ref(), unread, || {
                streams.drained()
            });
        })
    }

    fn start_input(self: &Arc<Self>, child: &Arc<Child>, ticket: Ticket, pipe: OwnedFd) -> io::Result<()> {
        tell_end(child, &ticket);
        let child = Arc::clone(child);
        spawn("input", move || {
            if let Some(stream) = pump::await_stream(&ticket) {
                pump::input(&stream, pipe, &child);
            }
        })
    }

    fn start_terminal(
        self: &Arc<Self>,
        child: &Arc<Child>,
        ticket: Option<Ticket>,
        size: Size,
        master: OwnedFd,
    ) -> io::Result<()> {
        if size != Size::default() {
            resize_terminal(&master, size.rows, size.columns)?;
        }
        set_nonblocking(&master)?;
        let (for_output, for_input) = (master.try_clone()?, master.try_clone()?);
        *lock(&self.master) = Some(master);
        self.begin_output();
        let streams = Arc::clone(self);
        let child = Arc::clone(child);
        if let Some(ticket) = &ticket {
            tell_end(&child, ticket);
        }
        spawn("terminal", move || {
            let stream = ticket.as_ref().and_then(pump::await_stream);
            let copy = stream.as_ref().and_then(|stream| stream.try_clone().ok());
            if let Some(copy) = copy {
                streams.keep(&copy);
                let child = Arc::clone(&child);
                // Without a thread there is no keyboard; output goes on.
                let _ = spawn("keyboard", move || pump::keyboard(&copy, for_input, &child));
            }
            pump::output(
                File::from(for_output),
                &child,
                stream.as_ref(),
                Unread::Drop,
                || streams.drained(),
            );
            *lock(&streams.master) = None;
            stream.iter().for_each(pump::linger);
        })
    }
}

/// Has a ticket's pump hear of the process's end.
fn tell_end(child: &Child, ticket: &Ticket) {
    let sender = ticket.sender();
    child.on_end(move || {
        let _ = sender.send(Event::Ended);
    });
}
