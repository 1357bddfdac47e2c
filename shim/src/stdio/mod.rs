//! Standard streams. containerd names FIFOs; the runtime gets their ends as its own streams and hands them on, so that what a
//! container writes is not copied here. Only what is typed goes through this process, since it has to be able to end it while
//! containerd holds the FIFO open; and terminals, whose master the runtime sends.
//!
//! ```text
//!  FIFO stdin ──► feeder ──► pipe ──► koya-runtime          FIFO stdin ──► feeder ──► master
//!  FIFO stdout ◄──────────────────── koya-runtime           FIFO stdout ◄── copier ◄── master
//! ```

mod feeder;
mod logger;
mod terminal;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub use feeder::Feeder;
pub use logger::{Logger, Writer};
pub use terminal::{Console, Terminal};

use crate::error::TaskError;
use crate::runtime::Streams;

/// What containerd wants for a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// FIFO to read from; empty for nothing.
    pub stdin: String,
    /// FIFO, file or program to write to; empty for nowhere.
    pub stdout: String,
    /// The same for errors; nothing with a terminal.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// What this process holds of a process's streams.
#[derive(Debug, Default)]
pub struct Held {
    feeder: Option<Feeder>,
    terminal: Option<Terminal>,
    /// Reading ends of FIFOs: whoever reads may come later, or be gone for a while.
    readers: Vec<File>,
    /// A program that takes the output.
    logger: Option<Logger>,
}

/// Opens the streams of a process without a terminal: those for the runtime, and what is held here.
///
/// # Errors
/// [`TaskError::Stream`], [`TaskError::File`], [`TaskError::Logger`], [`TaskError::System`]
pub fn open(wanted: &Wanted, writer: &Writer<'_>) -> Result<(Streams, Held), TaskError> {
    let mut held = Held::default();
    let stdin = match wanted.stdin.as_str() {
        "" => Stdio::null(),
        path => {
            let source = source(Path::new(path))?;
            let (reader, writer) = io::pipe().map_err(TaskError::system("make a pipe"))?;
            held.feeder = Some(Feeder::to_pipe(source, writer)?);
            Stdio::from(reader)
        }
    };
    let [stdout, stderr] = match held.log(wanted, writer)? {
        Some(sinks) => sinks.map(Stdio::from),
        None => [held.sink(&wanted.stdout)?, held.sink(&wanted.stderr)?],
    };
    Ok(([stdin, stdout, stderr], held))
}

/// The streams of a process whose terminal has come over `console`.
///
/// # Errors
/// As [`open`].
pub fn attach(wanted: &Wanted, console: &Console, writer: &Writer<'_>) -> Result<Held, TaskError> {
    let mut held = Held::default();
    let master = console.take()?;
    let sink = match held.log(wanted, writer)? {
        Some([out, _]) => Some(out),
        None => open_sink(&wanted.stdout)?.map(|(sink, reader)| {
            held.readers.extend(reader);
            sink
        }),
    };
    if !wanted.stdin.is_empty() {
        let source = source(Path::new(&wanted.stdin))?;
        let copy = master.try_clone().map_err(TaskError::system("copy a terminal"))?;
        held.feeder = Some(Feeder::to_terminal(source, copy)?);
    }
    held.terminal = Some(Terminal::copy(master, sink)?);
    Ok(held)
}

impl Held {
    /// The ends of a program that is to take output and errors, if one is.
    fn log(&mut self, wanted: &Wanted, writer: &Writer<'_>) -> Result<Option<[File; 2]>, TaskError> {
        if !wanted.stdout.starts_with(logger::SCHEME) {
            return Ok(None);
        }
        let (logger, sinks) = Logger::start(&wanted.stdout, writer)?;
        self.logger = Some(logger);
        Ok(Some(sinks))
    }

    /// Sees to the last of the output of a process that has ended, whose terminal may take this long.
    pub fn finish(mut self, patience: Duration) {
        if let Some(terminal) = self.terminal() {
            terminal.await_end(patience);
        }
        let logger = self.logger.take();
        drop(self);
        if let Some(logger) = logger {
            logger.finish();
        }
    }

    fn sink(&mut self, wanted: &str) -> Result<Stdio, TaskError> {
        Ok(match open_sink(wanted)? {
            Some((sink, reader)) => {
                self.readers.extend(reader);
                Stdio::from(sink)
            }
            None => Stdio::null(),
        })
    }

    /// The terminal, if there is one.
    pub fn terminal(&self) -> Option<&Terminal> {
        self.terminal.as_ref()
    }

    /// Nothing is typed any more, behind what has been.
    pub fn close_stdin(&mut self) {
        // With a terminal, whoever types may come back.
        if self.terminal.is_none() {
            self.feeder = None;
        }
    }

    /// Gives up the ends of those who do not read: a process that was killed does not wait for them.
    pub fn give_up_readers(&mut self) {
        self.readers.clear();
    }
}

/// A FIFO to read from, whether there is a writer yet or not.
fn source(path: &Path) -> Result<File, TaskError> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    file.map_err(TaskError::file("open", path))
}

/// Where a process writes to, with a reading end if it is a FIFO; none is nowhere.
fn open_sink(wanted: &str) -> Result<Option<(File, Option<File>)>, TaskError> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let (path, creates) = match wanted.split_once("://") {
        None => (PathBuf::from(wanted), false),
        Some(("file", path)) => (PathBuf::from(path), true),
        Some(_) => return Err(TaskError::Stream(wanted.to_owned())),
    };
    let fifo = path.metadata().is_ok_and(|found| found.file_type().is_fifo());
    // A writer waits for a reader, and here is one.
    let reader = match fifo {
        true => Some(source(&path)?),
        false => None,
    };
    let sink = File::options()
        .append(true)
        .create(creates)
        .mode(0o640)
        .open(&path)
        .map_err(TaskError::file("open", &path))?;
    Ok(Some((sink, reader)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::Command;
    use std::sync::Arc;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::reaper::Reaper;
    use crate::task::tests::{reaper, run};

    fn writer(reaper: &Arc<Reaper>) -> Writer<'_> {
        Writer {
            id: "web",
            namespace: "space",
            reaper,
        }
    }

    struct Fifos(PathBuf);

    impl Fifos {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("koya-shim-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            for name in ["in", "out"] {
                mknodat(CWD, folder.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            }
            Self(folder)
        }

        fn wanted(&self) -> Wanted {
            let path = |name: &str| self.0.join(name).to_str().unwrap().to_owned();
            Wanted {
                stdin: path("in"),
                stdout: path("out"),
                ..Wanted::default()
            }
        }
    }

    impl Drop for Fifos {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_typed_before_the_end_arrives_and_late_readers_read_all() {
        let fifos = Fifos::new("pipes");
        let (streams, mut held) = open(&fifos.wanted(), &writer(&reaper())).unwrap();
        let [stdin, stdout, stderr] = streams;
        let mark = reaper().mark();
        let mut command = Command::new("cat");
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let child = reaper().spawn(&mut command).unwrap();
        drop(command);
        // Whoever types keeps the FIFO open, and says that it is over.
        let mut typing = File::options().write(true).open(fifos.0.join("in")).unwrap();
        typing.write_all(b"typed\n").unwrap();
        held.close_stdin();
        let exit = reaper().wait(child, mark, Duration::from_secs(20));
        assert_eq!(exit.map(|exit| exit.status), Some(0));
        // Nobody has read until now.
        let mut reading = source(&fifos.0.join("out")).unwrap();
        drop(held);
        let mut said = String::new();
        reading.read_to_string(&mut said).unwrap();
        assert_eq!(said, "typed\n");
    }

    #[test]
    fn the_end_of_a_fifo_is_the_end_of_the_input() {
        let fifos = Fifos::new("end");
        let (streams, _held) = open(&fifos.wanted(), &writer(&reaper())).unwrap();
        let [stdin, stdout, _] = streams;
        let mut command = Command::new("cat");
        command.stdin(stdin).stdout(stdout);
        let path = fifos.0.join("in");
        let typing = std::thread::spawn(move || std::fs::write(path, "x").unwrap());
        assert_eq!(run(command), 0);
        typing.join().unwrap();
    }

    #[test]
    fn a_file_is_made_and_added_to() {
        let fifos = Fifos::new("file");
        let path = fifos.0.join("log");
        for word in ["one", "two"] {
            let wanted = Wanted {
                stdout: format!("file://{}", path.display()),
                ..Wanted::default()
            };
            let ([_, stdout, _], _held) = open(&wanted, &writer(&reaper())).unwrap();
            let mut command = Command::new("echo");
            command.arg(word).stdout(stdout);
            assert_eq!(run(command), 0);
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn streams_that_lead_nowhere_are_told() {
        let wanted = |stdout: &str| Wanted {
            stdout: stdout.to_owned(),
            ..Wanted::default()
        };
        let error = open(&wanted("other:///bin/logger"), &writer(&reaper()))
            .unwrap_err()
            .one_line();
        assert!(error.contains("\"other:///bin/logger\""), "{error}");
        let error = open(&wanted("/no/such/fifo"), &writer(&reaper()))
            .unwrap_err()
            .one_line();
        assert!(error.contains("/no/such/fifo"), "{error}");
    }
}
