//! Finds the program that a process is to run, and becomes it. Both a
//! container's first process and later ones end here, inside the container.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::metadata;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use serde::Deserialize;

use super::identity::{assume_identity, gains_nothing, install_filter, with_user};
use super::init::supervise;
use super::room::Room;
use super::user::home_of;
use super::{Failure, Kind};

/// Where programs are looked for when a process has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Marks our own failures inside the text through which libcontainer passes
/// them on; what follows is a [`Failure`] as JSON.
const MARK: &str = "koya-failure:";
/// Ends it.
const MARK_END: char = '\u{1}';

/// libcontainer's hook for what happens in place of its own execvp.
#[derive(Clone)]
pub struct Program {
    room: Room,
    process: Process,
    /// The process as it stands once it has its identity.
    ready: RefCell<Option<Process>>,
}

impl Program {
    /// The first process of a container.
    pub fn new(room: Room) -> Result<Self, Failure> {
        let process = parse(&room.process)?;
        let ready = RefCell::new(None);
        Ok(Self { room, process, ready })
    }

    /// Its process object.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn prepare(&self) -> Result<(), Failure> {
        self.room.settle()?;
        let process = with_user(self.process.clone(), &self.room.identity)?;
        if process.terminal().unwrap_or(false) {
            // Its user owns its terminal. One that may not be given away works all the same.
            let _ = nix::unistd::fchown(0, Some(process.user().uid().into()), None);
        }
        assume_identity(&process, &self.room.identity)?;
        find(&process)?;
        self.ready.replace(Some(process));
        Ok(())
    }

    fn run(&self) -> Result<Infallible, Failure> {
        let process = self.ready.take().ok_or_else(no_arguments)?;
        if gains_nothing(&process) {
            install_filter(&self.room.identity)?;
        }
        if self.room.init {
            supervise(&process)
        } else {
            become_program(&process)
        }
    }
}

/// A process object from JSON.
pub fn parse(json: &serde_json::Value) -> Result<Process, Failure> {
    Process::deserialize(json).map_err(|error| {
        Failure::new(
            Kind::Invalid,
            format!("the process object is not one of OCI's: {error}"),
        )
    })
}

impl Executor for Program {
    /// libcontainer is done, and the container's root is this process's: the last
    /// moment at which a failure is an error of Create.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare()
            .map_err(|failure| ExecutorValidationError::ArgValidationError(mark(&failure)))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // `become_program` passes the environment as it stands in the JSON.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let Err(failure) = self.run();
        refuse(&failure)
    }
}

/// Ends a process whose container was created already: nobody is left to tell
/// but the reader of its stderr, and whoever waits for its exit code.
pub fn refuse(failure: &Failure) -> ! {
    eprintln!("{}", failure.message);
    std::process::exit(if failure.kind == Kind::Missing { 127 } else { 126 })
}

/// A failure in libcontainer's words: ours, if it carries one.
pub fn failure_of(act: &str, error: &dyn std::error::Error) -> Failure {
    let failure = Failure::runtime(act, error);
    unmark(&failure.message).unwrap_or(failure)
}

fn mark(failure: &Failure) -> String {
    let json = serde_json::to_string(failure).unwrap_or_default();
    format!("{MARK}{json}{MARK_END}")
}

fn unmark(text: &str) -> Option<Failure> {
    let (_, rest) = text.split_once(MARK)?;
    let (json, _) = rest.split_once(MARK_END)?;
    serde_json::from_str(json).ok()
}

fn no_arguments() -> Failure {
    Failure::new(
        Kind::Invalid,
        "process.args is empty; its first element is the program to run",
    )
}

/// The program's path, in a process that is inside the container and in its
/// working directory already.
fn find(process: &Process) -> Result<PathBuf, Failure> {
    let arguments = process.args().as_ref().ok_or_else(no_arguments)?;
    let name = arguments.first().ok_or_else(no_arguments)?;
    if name.contains('/') {
        return executable(Path::new(name)).map(|()| name.into());
    }
    let mut denied = None;
    for folder in search_path(process).split(':') {
        let candidate = Path::new(folder).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(failure) if failure.kind == Kind::NotExecutable => denied = Some(failure),
            Err(_) => {}
        }
    }
    let missing = || {
        Failure::new(
            Kind::Missing,
            format!("no program '{name}' in the container's PATH"),
        )
    };
    Err(denied.unwrap_or_else(missing))
}

fn search_path(process: &Process) -> &str {
    let environment = process.env().iter().flatten();
    environment
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH)
}

fn executable(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let denied = |why: &str| Failure::new(Kind::NotExecutable, format!("'{shown}' in the container {why}"));
    match metadata(path) {
        Ok(found) if found.is_dir() => Err(denied("is a folder, not a program")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Err(denied("is not executable")),
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            Err(denied("may not be accessed by this user"))
        }
        Err(_) => Err(Failure::new(
            Kind::Missing,
            format!("no program '{shown}' in the container"),
        )),
    }
}

/// Replaces this process by the program.
pub fn become_program(process: &Process) -> Result<Infallible, Failure> {
    let path = find(process)?;
    let text = |what: &str, text: &str| {
        let message = format!("{what} has a NUL byte in it, which no process can be given");
        CString::new(text).map_err(|_| Failure::new(Kind::Invalid, message))
    };
    let all = |what: &str, list: &Option<Vec<String>>| -> Result<Vec<CString>, Failure> {
        list.iter().flatten().map(|entry| text(what, entry)).collect()
    };
    let arguments = all("process.args", process.args())?;
    let mut environment = all("process.env", process.env())?;
    let has = |name: &str| {
        process
            .env()
            .iter()
            .flatten()
            .any(|entry| entry.starts_with(name))
    };
    if !has("HOME=") {
        let home = home_of(process.user().uid()).unwrap_or_else(|| "/".to_owned());
        environment.push(text("HOME", &format!("HOME={home}"))?);
    }
    let file = text("process.args[0]", &path.to_string_lossy())?;
    reset_signals().map_err(|errno| Failure::runtime("reset signals", &io::Error::from(errno)))?;
    let Err(errno) = nix::unistd::execve(&file, &arguments, &environment);
    Err(refused(&path, errno))
}

fn refused(path: &Path, errno: Errno) -> Failure {
    let shown = path.display();
    match errno {
        // It was there a moment ago: what is missing is its interpreter.
        Errno::ENOENT => Failure::new(
            Kind::Missing,
            format!("the interpreter of '{shown}' is not in the container"),
        ),
        errno => Failure::new(
            Kind::NotExecutable,
            format!("cannot execute '{shown}' in the container: {}", errno.desc()),
        ),
    }
}

/// A Rust program ignores SIGPIPE, PID 1 blocks what it waits for, and whoever
/// started the agent may have ignored others; programs expect none of it.
fn reset_signals() -> nix::Result<()> {
    for which in Signal::iterator().filter(|which| !matches!(which, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action is no handler that could break a rule.
        unsafe { signal(which, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::ProcessBuilder;

    use super::*;

    fn found(name: &str) -> Result<PathBuf, Failure> {
        let process = ProcessBuilder::default()
            .args(vec![name.to_owned()])
            .env(vec!["PATH=/usr/bin:/bin".to_owned()])
            .build()
            .unwrap();
        find(&process)
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(found("sh").unwrap().ends_with("sh"));
        assert_eq!(found("/bin/sh").unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn missing_and_unexecutable_programs_differ() {
        assert_eq!(found("no-such-program").unwrap_err().kind, Kind::Missing);
        assert_eq!(found("/no/such/program").unwrap_err().kind, Kind::Missing);
        assert_eq!(found("/etc/passwd").unwrap_err().kind, Kind::NotExecutable);
        assert_eq!(found("/etc").unwrap_err().kind, Kind::NotExecutable);
    }

    #[test]
    fn a_failure_passes_through_the_runtime() {
        let failure = Failure::new(Kind::Missing, "no program 'x' in the container's PATH");
        let told = format!(
            "failed to create container: exec process failed with error {}, sorry",
            mark(&failure)
        );
        assert_eq!(unmark(&told), Some(failure));
        assert_eq!(unmark("something else"), None);
    }
}
