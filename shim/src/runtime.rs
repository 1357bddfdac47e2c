//! `koya-runtime`, which does the work: one run of it for each thing that is to be done.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use koya_sandbox::Kind;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::error::TaskError;
use crate::reaper::{Mark, Reaper};

/// How long a boot may take, hooks included: on a busy host the runtime gives a guest ten minutes.
const CREATION: Duration = Duration::from_secs(660);
/// How long everything else may take. `delete` waits for the end of a microVM.
const PATIENCE: Duration = Duration::from_secs(60);
/// As much of a log, or of an answer, as is read.
const MAX_TEXT: u64 = 256 << 10;

/// The program, for one namespace of containerd.
pub struct Runtime {
    program: PathBuf,
    root: PathBuf,
    reaper: Arc<Reaper>,
}

/// Standard streams of a process.
pub type Streams = [Stdio; 3];

/// None at all.
pub fn silent() -> Streams {
    [Stdio::null(), Stdio::null(), Stdio::null()]
}

impl Runtime {
    /// Finds the program.
    ///
    /// # Errors
    /// [`TaskError::NoRuntime`]
    pub fn find(root: PathBuf, reaper: Arc<Reaper>) -> Result<Self, TaskError> {
        Ok(Self::at(Self::program()?, root, reaper))
    }

    /// The program: by `KOYA_RUNTIME`, beside this one, or in `PATH`.
    ///
    /// # Errors
    /// [`TaskError::NoRuntime`]
    pub fn program() -> Result<PathBuf, TaskError> {
        let named = env::var_os("KOYA_RUNTIME").map(PathBuf::from);
        let own = env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.to_owned()));
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = own.into_iter().chain(env::split_paths(&path));
        let mut found = match named {
            Some(program) => vec![program],
            None => folders.map(|folder| folder.join("koya-runtime")).collect(),
        }
        .into_iter();
        found
            .find(|program| program.is_file())
            .ok_or(TaskError::NoRuntime)
    }

    /// The program at `program`, which keeps its states in `root`.
    pub fn at(program: PathBuf, root: PathBuf, reaper: Arc<Reaper>) -> Self {
        Self {
            program,
            root,
            reaper,
        }
    }

    /// Whose children the processes are that it leaves behind.
    pub fn reaper(&self) -> &Arc<Reaper> {
        &self.reaper
    }

    /// Whether a process of a container that has ended was killed for want of memory. The runtime leaves a note of that.
    pub fn was_out_of_memory(&self, id: &str) -> bool {
        self.root.join(id).join("oom").exists()
    }

    /// Runs a command of `words`, the first of which is its name.
    ///
    /// # Errors
    /// What the program says, and [`TaskError::Slow`].
    pub fn run<W: AsRef<OsStr>>(
        &self,
        bundle: &Path,
        words: &[W],
        streams: Streams,
    ) -> Result<(), TaskError> {
        self.call(bundle, words, streams, PATIENCE)
    }

    /// Runs `create` or `exec`; the pid of the process that it leaves behind, and the moment before.
    ///
    /// # Errors
    /// As [`Self::run`]; and when no pid was written.
    pub fn begin<W: AsRef<OsStr>>(
        &self,
        bundle: &Path,
        words: &[W],
        streams: Streams,
        pid_file: &Path,
    ) -> Result<(u32, Mark), TaskError> {
        let mark = self.reaper.mark();
        let result = self.call(bundle, words, streams, CREATION);
        let text = fs::read_to_string(pid_file);
        let _ = fs::remove_file(pid_file);
        result?;
        let text = text.map_err(TaskError::file("read", pid_file))?;
        let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
        Ok((pid.ok_or(TaskError::Answer("--pid-file"))?, mark))
    }

    /// Runs `events --stats`; what is used.
    ///
    /// # Errors
    /// As [`Self::run`]; and [`TaskError::Answer`].
    pub fn stats(&self, bundle: &Path, id: &str) -> Result<Value, TaskError> {
        let (reader, writer) = io::pipe().map_err(TaskError::system("make a pipe"))?;
        let streams = [Stdio::null(), Stdio::from(writer), Stdio::null()];
        // What it prints is one line, which a pipe holds.
        self.run(bundle, &["events", "--stats", id], streams)?;
        let mut text = String::new();
        let read = reader.take(MAX_TEXT).read_to_string(&mut text);
        read.map_err(TaskError::system("read what koya-runtime says"))?;
        serde_json::from_str(&text).map_err(|_| TaskError::Answer("events"))
    }

    fn call<W: AsRef<OsStr>>(
        &self,
        bundle: &Path,
        words: &[W],
        [stdin, stdout, stderr]: Streams,
        patience: Duration,
    ) -> Result<(), TaskError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = Log(bundle.join(format!("koya-{count}.log")));
        let name = words.first().map(|word| word.as_ref().to_string_lossy());
        let name = name.unwrap_or_default().into_owned();
        let mark = self.reaper.mark();
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(&log.0)
            .args(["--log-format", "json"])
            .args(words)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        let pid = self.reaper.spawn(&mut command);
        // With it, this process's ends of the streams.
        drop(command);
        let pid = pid.map_err(TaskError::file("run", &self.program))?;
        match self.reaper.wait(pid, mark, patience) {
            Some(exit) if exit.status == 0 => Ok(()),
            Some(exit) => Err(log.last_error().unwrap_or(TaskError::Silent {
                command: name,
                code: exit.status,
            })),
            None => {
                end(pid);
                Err(TaskError::Slow {
                    command: name,
                    seconds: patience.as_secs(),
                })
            }
        }
    }
}

/// Kills a child that has not ended.
fn end(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// A log of one run, which goes when it has been read.
struct Log(PathBuf);

impl Log {
    /// The last error in it.
    fn last_error(&self) -> Option<TaskError> {
        let mut text = String::new();
        let file = File::open(&self.0).ok()?;
        file.take(MAX_TEXT).read_to_string(&mut text).ok()?;
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut errors = lines.filter(|line| line.get("level").and_then(Value::as_str) == Some("error"));
        let last = errors.next_back()?;
        // One of an older runtime has none.
        let kind = last
            .get("kind")
            .and_then(|kind| serde_json::from_value::<Kind>(kind.clone()).ok());
        Some(TaskError::Told {
            kind: kind.unwrap_or_default(),
            message: last.get("msg")?.as_str()?.to_owned(),
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
