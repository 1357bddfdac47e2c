//! Programs that take a process's output: `binary:///PATH?KEY=VALUE`, as containerd's users write it.
//!
//! ```text
//!  descriptor 3 ◄── standard output       CONTAINER_ID, CONTAINER_NAMESPACE
//!  descriptor 4 ◄── standard error        arguments: KEY VALUE …
//!  descriptor 5 ──► its end says that the program is ready
//! ```

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::TaskError;
use crate::reaper::{Mark, Reaper};

/// How a program of this kind begins.
pub const SCHEME: &str = "binary://";
/// The first descriptor beyond the standard streams.
const FIRST: RawFd = 3;
/// Descriptors from here on are in nobody's way.
const ASIDE: RawFd = 10;
/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long the last of the output may take, and how long a program that was told to end.
const LAST_WORDS: Duration = Duration::from_secs(5);
const ENDING: Duration = Duration::from_secs(2);
/// Longest description that is taken.
const MAX_URI: usize = 64 << 10;

/// For whom a program takes output.
pub struct Writer<'a> {
    /// The process, or the container if it is its first one.
    pub id: &'a str,
    /// containerd's namespace.
    pub namespace: &'a str,
    /// Whose child the program is.
    pub reaper: &'a Arc<Reaper>,
}

/// A program that takes output.
pub struct Logger {
    pid: u32,
    since: Mark,
    reaper: Arc<Reaper>,
}

/// What such a description says.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

impl Logger {
    /// Starts one; where to write output and errors.
    ///
    /// # Errors
    /// [`TaskError::Stream`], [`TaskError::File`], [`TaskError::Logger`], [`TaskError::System`]
    pub fn start(uri: &str, writer: &Writer<'_>) -> Result<(Self, [File; 2]), TaskError> {
        let program =
            Program::parse(uri).ok_or_else(|| TaskError::Stream(uri.chars().take(256).collect()))?;
        let pipe = || io::pipe().map_err(TaskError::system("make a pipe"));
        let ((out, to_out), (errors, to_errors), (ready, tell)) = (pipe()?, pipe()?, pipe()?);
        let aside =
            |fd: OwnedFd| fcntl_dupfd_cloexec(&fd, ASIDE).map_err(TaskError::system("copy a descriptor"));
        let given = [aside(out.into())?, aside(errors.into())?, aside(tell.into())?];
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env("CONTAINER_ID", writer.id)
            .env("CONTAINER_NAMESPACE", writer.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec the closure makes three system calls, and touches no memory.
        unsafe {
            command.pre_exec(move || {
                for (number, from) in (FIRST..).zip(&given) {
                    if libc::dup2(from.as_raw_fd(), number) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let since = writer.reaper.mark();
        let pid = writer.reaper.spawn(&mut command);
        // With it, this process's ends of what was given.
        drop(command);
        let logger = Self {
            pid: pid.map_err(TaskError::file("run", &program.path))?,
            since,
            reaper: Arc::clone(writer.reaper),
        };
        if logger.is_ready(ready) {
            return Ok((
                logger,
                [OwnedFd::from(to_out).into(), OwnedFd::from(to_errors).into()],
            ));
        }
        logger.send(Signal::KILL);
        Err(TaskError::Logger(program.path))
    }

    /// Waits until it says so. One that has ended says it as well, and takes nothing.
    fn is_ready(&self, mut ready: PipeReader) -> bool {
        let late = Instant::now().checked_add(READY);
        loop {
            let left = late.and_then(|late| late.checked_duration_since(Instant::now()));
            let Some(left) = left.and_then(|left| left.try_into().ok()) else {
                return false;
            };
            match poll(
                &mut [PollFd::from_borrowed_fd(ready.as_fd(), PollFlags::IN)],
                Some(&left),
            ) {
                Ok(0) => return false,
                Ok(_) => return ready.read(&mut [0]).is_ok() && !self.has_ended(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn has_ended(&self) -> bool {
        // Its end comes a moment after those of its descriptors.
        let patience = Duration::from_millis(20);
        self.reaper.wait(self.pid, self.since, patience).is_some()
    }

    /// Waits until it has taken the rest, of which this process has no end any more. One that stays is ended.
    pub fn finish(self) {
        for (patience, signal) in [(LAST_WORDS, Signal::TERM), (ENDING, Signal::KILL)] {
            if self.reaper.wait(self.pid, self.since, patience).is_some() {
                return;
            }
            self.send(signal);
        }
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
            let _ = pidfd_send_signal(process, signal);
        }
    }
}

impl std::fmt::Debug for Logger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Logger")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// Reads a description; none if it is no such.
    fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix(SCHEME).filter(|_| uri.len() <= MAX_URI)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(plain(path, false)?);
        let mut arguments = Vec::<String>::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = plain(key, true)?;
            // Of several values of one key, the first counts.
            if arguments.iter().step_by(2).any(|known| *known == key) {
                continue;
            }
            arguments.extend([key, plain(value, true)?]);
        }
        path.is_absolute().then_some(Self { path, arguments })
    }
}

/// A part of a URI without its escapes (RFC 3986, section 2.1); in a query + is a space.
fn plain(text: &str, query: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                digits
                    .bytes()
                    .all(|digit| digit.is_ascii_hexdigit())
                    .then_some(())?;
                u8::from_str_radix(digits, 16).ok()?
            }
            b'+' if query => b' ',
            other => other,
        });
    }
    String::from_utf8(plain)
        .ok()
        .filter(|plain| !plain.contains('\0'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::task::tests::reaper;

    #[test]
    fn descriptions_are_read_as_containerds() {
        let parse = |uri: &str| Program::parse(uri);
        let program = parse("binary:///bin/a%20b?tag=x+y&flag&tag=z&%25=%2F").unwrap();
        assert_eq!(program.path, PathBuf::from("/bin/a b"));
        assert_eq!(program.arguments, ["tag", "x y", "flag", "", "%", "/"]);
        for wrong in [
            "binary://bin/a",
            "binary://",
            "file:///a",
            "binary:///a%2",
            "binary:///a%+1",
            "binary:///a%00",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    fn script(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("koya-logger-{name}-{}", std::process::id()));
        reaper().undisturbed(|| fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn start(program: &std::path::Path, query: &str) -> Result<(Logger, [File; 2]), TaskError> {
        let writer = Writer {
            id: "web",
            namespace: "space",
            reaper: &reaper(),
        };
        Logger::start(&format!("binary://{}?{query}", program.display()), &writer)
    }

    #[test]
    fn a_program_gets_both_streams_and_ends_with_them() {
        let said = std::env::temp_dir().join(format!("koya-logger-said-{}", std::process::id()));
        let program = script(
            "good",
            "exec 5>&-; { echo \"$CONTAINER_NAMESPACE $CONTAINER_ID $1\"; cat <&3; cat <&4; } > \"$2\"",
        );
        let (logger, [mut out, mut errors]) = start(&program, &format!("to={}", said.display())).unwrap();
        out.write_all(b"output\n").unwrap();
        errors.write_all(b"errors\n").unwrap();
        drop((out, errors));
        logger.finish();
        assert_eq!(
            fs::read_to_string(&said).unwrap(),
            "space web to\noutput\nerrors\n"
        );
        fs::remove_file(said).unwrap();
        fs::remove_file(program).unwrap();
    }

    #[test]
    fn one_that_ends_at_once_or_stays_is_no_trouble() {
        let program = script("ends", "exit 1");
        let error = start(&program, "").unwrap_err().one_line();
        assert!(error.contains("koya-logger-ends"), "{error}");
        fs::remove_file(program).unwrap();
        let error = start(std::path::Path::new("/no/such/logger"), "")
            .unwrap_err()
            .one_line();
        assert!(error.contains("/no/such/logger"), "{error}");
        let program = script("stays", "exec 5>&-; exec sleep 1000");
        let (logger, streams) = start(&program, "").unwrap();
        let pid = logger.pid;
        drop(streams);
        logger.finish();
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
        fs::remove_file(program).unwrap();
    }
}
