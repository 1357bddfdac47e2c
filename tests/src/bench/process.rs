//! A lean spawner: `posix_spawn`, a pipe from standard output, deadlines everywhere.
//!
//! A fork copies the page tables of the whole parent, and a VMM's start would be charged for it; `posix_spawn`
//! shares memory with the child until it executes. Everything that can be prepared is, before the clock starts.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use super::BenchError;

/// Bytes of output that are kept for searching; a VMM that writes more loses the oldest half.
const MAX_OUTPUT: usize = 1 << 20;

/// How long a killed process is waited for. Closing a VM takes milliseconds, on an emulated host seconds.
const DEATH: Duration = Duration::from_secs(20);

/// A child process with a pipe from its standard output. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    pid: libc::pid_t,
    handle: OwnedFd,
    stdout: Option<File>,
    output: Vec<u8>,
    errors: PathBuf,
    code: Option<i32>,
    started: Instant,
}

/// Why a wait ended.
enum Event {
    Output,
    Exit,
}

impl Process {
    /// Starts `argv` (the program's path first). Standard input is empty, standard output a pipe, standard
    /// error goes to the file `errors`.
    ///
    /// # Errors
    /// When the program cannot be executed, or the host is out of descriptors.
    pub fn spawn(argv: &[OsString], errors: &Path) -> Result<Self, BenchError> {
        Self::spawn_with(argv, &[], errors)
    }

    /// [`Process::spawn`] with more in the environment: `NAME=VALUE`.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_with(argv: &[OsString], variables: &[OsString], errors: &Path) -> Result<Self, BenchError> {
        let program = PathBuf::from(argv.first().cloned().unwrap_or_default());
        let strings = to_c_strings(argv).map_err(BenchError::path("run", &program))?;
        let pointers = to_pointers(&strings);
        let environment = to_c_strings(&environment(variables)).map_err(BenchError::path("run", &program))?;
        let environment_pointers = to_pointers(&environment);

        let null = File::open("/dev/null").map_err(BenchError::path("open", "/dev/null"))?;
        let stderr = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(errors);
        let stderr = stderr.map_err(BenchError::path("write", errors))?;
        let (read_end, write_end) = pipe().map_err(BenchError::host("make a pipe"))?;
        let mut actions = FileActions::new().map_err(BenchError::host("prepare a process"))?;
        for (fd, target) in [
            (null.as_raw_fd(), 0),
            (write_end.as_raw_fd(), 1),
            (stderr.as_raw_fd(), 2),
        ] {
            actions
                .duplicate(fd, target)
                .map_err(BenchError::host("prepare a process"))?;
        }

        let mut pid = 0;
        let started = Instant::now();
        // SAFETY: every pointer lives until the call returns; both lists end with a null pointer.
        let failed = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                strings.first().map_or(ptr::null(), |path| path.as_ptr()),
                actions.0.as_ptr(),
                ptr::null(),
                pointers.as_ptr(),
                environment_pointers.as_ptr(),
            )
        };
        if failed != 0 {
            return Err(BenchError::path("run", &program)(io::Error::from_raw_os_error(
                failed,
            )));
        }
        drop(write_end);
        let handle = pidfd(pid).map_err(BenchError::host("watch a process"))?;
        let stdout = Some(read_end);
        Ok(Self {
            pid,
            handle,
            stdout,
            output: Vec::new(),
            errors: errors.into(),
            code: None,
            started,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// When the process was started: the moment before the system call.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What the process has written so far, as far as it was read.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut handle = libc::pollfd {
            fd: self.handle.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer is to one such structure, which outlives the call.
        unsafe { libc::poll(&raw mut handle, 1, 0) == 1 }
    }

    /// Waits for the first bytes of output and returns when they came.
    ///
    /// # Errors
    /// When the process ends first, or the limit passes.
    pub fn first_byte(&mut self, limit: Duration) -> Result<Instant, BenchError> {
        self.until("the first byte", limit, |output| !output.is_empty())
    }

    /// Waits until the output contains `text` and returns when the part of it that completes it was read.
    ///
    /// # Errors
    /// When the process ends first, or the limit passes.
    pub fn line(&mut self, text: &str, limit: Duration) -> Result<Instant, BenchError> {
        self.until(&quoted(text), limit, |output| {
            find(output, text.as_bytes()).is_some()
        })
    }

    /// The rest of the line that follows `text`; waits for its end.
    ///
    /// # Errors
    /// When the process ends first, or the limit passes.
    pub fn rest_of_line(&mut self, text: &str, limit: Duration) -> Result<(String, Instant), BenchError> {
        let rest = |output: &[u8]| -> Option<String> {
            let after = output.get(find(output, text.as_bytes())?.saturating_add(text.len())..)?;
            let end = after.iter().position(|&byte| byte == b'\n')?;
            Some(String::from_utf8_lossy(after.get(..end)?).trim().to_owned())
        };
        let when = self.until(&quoted(text), limit, |output| rest(output).is_some())?;
        Ok((rest(&self.output).unwrap_or_default(), when))
    }

    /// Waits for the end of the process; its exit code (a signal's number negated) and when it was seen.
    ///
    /// # Errors
    /// When the limit passes.
    pub fn exit(&mut self, limit: Duration) -> Result<(i32, Instant), BenchError> {
        let deadline = later(limit);
        loop {
            match self
                .event(deadline)
                .map_err(BenchError::host("wait for a process"))?
            {
                Some(Event::Exit) => {
                    let when = Instant::now();
                    return Ok((self.reap(), when));
                }
                Some(Event::Output) => {
                    self.read();
                }
                None => {
                    return Err(BenchError::Timeout {
                        awaited: "exit".into(),
                        limit,
                    });
                }
            }
        }
    }

    fn until(
        &mut self,
        awaited: &str,
        limit: Duration,
        is_there: impl Fn(&[u8]) -> bool,
    ) -> Result<Instant, BenchError> {
        let deadline = later(limit);
        let mut when = Instant::now();
        while !is_there(&self.output) {
            match self
                .event(deadline)
                .map_err(BenchError::host("wait for a process"))?
            {
                Some(Event::Output) => when = self.read(),
                Some(Event::Exit) => return Err(self.early_exit(awaited)),
                None => {
                    return Err(BenchError::Timeout {
                        awaited: awaited.into(),
                        limit,
                    });
                }
            }
        }
        Ok(when)
    }

    /// Waits for output or for the end; output first, so that none is lost. `None` at the deadline.
    fn event(&self, deadline: Instant) -> io::Result<Option<Event>> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a wait of 0 ms would spin through the last millisecond.
        let wait = i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
        let watch = |fd: RawFd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // Poll ignores negative descriptors.
        let stdout = self.stdout.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let mut fds = [watch(stdout), watch(self.handle.as_raw_fd())];
        // SAFETY: the pointer and the count describe `fds`, which outlives the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, wait) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            // An interrupted wait is a short one; the caller asks again.
            return if error.kind() == io::ErrorKind::Interrupted {
                self.event(deadline)
            } else {
                Err(error)
            };
        }
        let [output, exit] = fds;
        Ok(match (output.revents, exit.revents) {
            (0, 0) => None,
            (0, _) => Some(Event::Exit),
            _ => Some(Event::Output),
        })
    }

    /// Takes what the pipe has; closes it at its end. Returns when the bytes had arrived.
    fn read(&mut self) -> Instant {
        let mut buffer = [0; 4096];
        let count = self
            .stdout
            .as_mut()
            .and_then(|pipe| pipe.read(&mut buffer).ok())
            .unwrap_or(0);
        let when = Instant::now();
        if count == 0 {
            self.stdout = None;
        }
        self.output
            .extend_from_slice(buffer.get(..count).unwrap_or_default());
        if self.output.len() > MAX_OUTPUT {
            self.output.drain(..MAX_OUTPUT / 2);
        }
        when
    }

    /// Collects the exit code of a process that has ended, or is about to.
    fn reap(&mut self) -> i32 {
        if let Some(code) = self.code {
            return code;
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call, and this is the only place that waits for this child.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        let code = match waited {
            pid if pid != self.pid => -1,
            _ if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
            _ => libc::WTERMSIG(status).saturating_neg(),
        };
        *self.code.insert(code)
    }

    /// The error for a process that ended, or is about to, instead of what was awaited.
    pub fn early_exit(&mut self, awaited: &str) -> BenchError {
        let code = self.reap();
        BenchError::EarlyExit {
            awaited: awaited.into(),
            code,
            last_words: self.last_words(),
        }
    }

    /// The last line of the error output, or of the output when there is none.
    fn last_words(&self) -> String {
        let errors = fs::read(&self.errors).unwrap_or_default();
        let text =
            String::from_utf8_lossy(if errors.is_empty() { &self.output } else { &errors }).into_owned();
        let line = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        line.trim().chars().take(200).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.code.is_none() {
            // SAFETY: the child has not been reaped, so the id is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            // A process that is stuck in the kernel dies when the kernel lets it; it is not waited for.
            if self.exit(DEATH).is_err() {
                eprintln!(
                    "process {} is still there {} s after SIGKILL",
                    self.pid,
                    DEATH.as_secs()
                );
            }
        }
    }
}

/// A command line of words.
pub(super) fn command<'a>(program: &Path, words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    let words = words.into_iter().map(OsString::from);
    std::iter::once(program.into()).chain(words).collect()
}

/// The first line of what a program says of its version.
pub(super) fn version(program: &Path) -> Result<String, BenchError> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(BenchError::path("run", program))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Whether all of these programs are there.
pub(super) fn installed(programs: &[&str]) -> Result<(), BenchError> {
    match programs.iter().find(|program| !Path::new(program).exists()) {
        None => Ok(()),
        Some(missing) => Err(BenchError::Missing {
            what: (*missing).to_owned(),
            remedy: "install Debian's packages (resources/install-packages)",
        }),
    }
}

/// `posix_spawn_file_actions_t`, destroyed when dropped.
struct FileActions(Box<MaybeUninit<libc::posix_spawn_file_actions_t>>);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = Box::new(MaybeUninit::uninit());
        // SAFETY: the pointer is to memory for one such object, which the call initialises.
        match unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) } {
            0 => Ok(Self(actions)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    fn duplicate(&mut self, fd: RawFd, target: RawFd) -> io::Result<()> {
        // SAFETY: the object was initialised by `new`.
        match unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), fd, target) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: the object was initialised by `new` and is destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

/// This process's environment, with `others` in place of what it has of the same name.
fn environment(others: &[OsString]) -> Vec<OsString> {
    let named = |name: &OsStr| {
        let prefix = [name.as_bytes(), b"="].concat();
        others.iter().any(|other| other.as_bytes().starts_with(&prefix))
    };
    let own = std::env::vars_os().filter(|(name, _)| !named(name));
    let own = own.map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    own.chain(others.iter().cloned()).collect()
}

/// A list for the C library.
fn to_pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    let pointers = strings.iter().map(|text| text.as_ptr().cast_mut());
    pointers.chain([ptr::null_mut()]).collect()
}

fn to_c_strings(argv: &[OsString]) -> io::Result<Vec<CString>> {
    argv.iter()
        .map(|arg| Ok(CString::new(arg.clone().into_vec())?))
        .collect()
}

/// A pipe whose ends no other child inherits: read end, write end.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let [read_end, write_end] = ends;
    // SAFETY: both descriptors are new and owned by nobody else.
    Ok(unsafe { (File::from_raw_fd(read_end), OwnedFd::from_raw_fd(write_end)) })
}

/// A descriptor that becomes readable when the process ends.
fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; the descriptor it returns is new and close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: a descriptor that the call returned is owned by nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The moment `limit` from now.
pub(super) fn later(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or(now)
}

/// A text that is waited for, as messages name it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.trim())
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len().max(1))
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn shell(script: &str) -> Process {
        let argv: Vec<OsString> = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        let name = format!(
            "koya-bench-test-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        Process::spawn(&argv, &std::env::temp_dir().join(name)).unwrap()
    }

    #[test]
    fn sees_lines_as_they_come_and_then_the_exit_code() {
        let mut process = shell("echo begin; sleep 0.2; echo end 42; exit 7");
        let begin = process.line("begin", 5 * SECOND).unwrap();
        let (rest, end) = process.rest_of_line("end", 5 * SECOND).unwrap();
        assert_eq!(rest, "42");
        assert!(end - begin >= Duration::from_millis(150));
        assert_eq!(process.exit(5 * SECOND).unwrap().0, 7);
    }

    #[test]
    fn does_not_wait_for_what_hangs_and_kills_it() {
        let mut process = shell("exec sleep 60");
        let began = Instant::now();
        let error = process.first_byte(Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, BenchError::Timeout { .. }), "{error}");
        let pid = process.pid();
        drop(process);
        assert!(began.elapsed() < 5 * SECOND);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn tells_the_last_words_of_what_ends_early() {
        let mut process = shell("echo no such kernel >&2; exit 3");
        let error = process.line("hello", 5 * SECOND).unwrap_err();
        assert_eq!(
            error.to_string(),
            "exit with code 3 before 'hello': no such kernel"
        );
    }

    #[test]
    fn finds_output_that_came_together_with_the_exit() {
        let mut process = shell("echo hello");
        std::thread::sleep(Duration::from_millis(100));
        process.line("hello", 5 * SECOND).unwrap();
    }

    #[test]
    fn variables_are_in_the_environment() {
        let argv: Vec<OsString> = ["/bin/sh", "-c", "echo $HOME-$PATH"].map(OsString::from).to_vec();
        let errors = std::env::temp_dir().join(format!("koya-bench-env-{}", std::process::id()));
        let mut process = Process::spawn_with(&argv, &["HOME=/elsewhere".into()], &errors).unwrap();
        let (path, _) = process.rest_of_line("/elsewhere-", 5 * SECOND).unwrap();
        assert_eq!(path, std::env::var("PATH").unwrap());
        fs::remove_file(errors).unwrap();
    }

    #[test]
    fn names_a_program_that_is_not_there() {
        let error = Process::spawn(&["/no/such/vmm".into()], Path::new("/dev/null")).unwrap_err();
        assert!(
            error.in_full().starts_with("cannot run /no/such/vmm: "),
            "{}",
            error.in_full()
        );
    }
}
