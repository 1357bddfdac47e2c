//! A `koya-vmm` under test: its process, its console, its socket.

#![allow(clippy::panic, reason = "it serves tests, which fail by panics")]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Patience with anything that should take far less: emulated hosts are slow, and a test that hangs must end.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Console output kept for the message of a failed test.
const KEPT: usize = 8 << 20;
/// Output shown in the message of a failed test.
const SHOWN: usize = 4 << 10;

/// A path that the environment must name.
///
/// # Panics
/// With what to do, when it does not.
pub fn from_env(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => panic!("{variable} is not set: run these tests by `make test`, or see tests/run"),
    }
}

/// The monitor under test.
pub fn vmm_binary() -> PathBuf {
    from_env("KOYA_VMM")
}

/// A tiny guest of resources/tiny.
pub fn tiny(name: &str) -> PathBuf {
    from_env("KOYA_TINY").join(name)
}

/// A folder of a test's own, removed when the test ends.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty folder with a short path, so that sockets fit into it.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("koya-{}-{count}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Self(path),
            Err(error) => panic!("cannot create {}: {error}", path.display()),
        }
    }

    /// The path of `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        match fs::write(&path, contents) {
            Ok(()) => path,
            Err(error) => panic!("cannot write {}: {error}", path.display()),
        }
    }

    /// A sparse file of `bytes` bytes.
    pub fn disk(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.file(name, []);
        let sized = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(bytes));
        match sized {
            Ok(()) => path,
            Err(error) => panic!("cannot size {}: {error}", path.display()),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a process has written to one of its streams, growing while it runs.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    closed: bool,
}

impl Output {
    /// Reads `stream` to its end on a thread of its own.
    pub fn collect(mut stream: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let shared = output.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap_or(0);
                let (collected, changed) = &*shared.0;
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                collected.bytes.extend(buffer.iter().take(read));
                if collected.bytes.len() > KEPT {
                    // Half of it at once, so that a flood does not move everything for every byte.
                    collected.bytes.drain(..KEPT / 2);
                }
                collected.closed = read == 0;
                changed.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        output
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Waits until the text holds `needle`, the stream is closed or `patience` is over; whether it was found.
    pub fn wait_for(&self, needle: &str, patience: Duration) -> bool {
        let start = Instant::now();
        let mut collected = self.lock();
        let mut searched = 0_usize;
        loop {
            // What was searched before can hold no more than the needle's beginning, unless a flood moved it.
            let unseen = collected.bytes.get(searched.saturating_sub(needle.len())..);
            if holds(unseen.unwrap_or(&collected.bytes), needle.as_bytes()) {
                return true;
            }
            let left = patience.saturating_sub(start.elapsed());
            if collected.closed || left.is_zero() {
                return false;
            }
            searched = collected.bytes.len();
            let waited = self.0.1.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a text, as much as a person reads, and how much is before it.
fn ending(text: &str) -> String {
    let start = text.ceil_char_boundary(text.len().saturating_sub(SHOWN));
    match text.split_at_checked(start) {
        Some((before, end)) if !before.is_empty() => format!("[{} bytes before] {end}", before.len()),
        _ => text.to_owned(),
    }
}

fn holds(text: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || text.windows(needle.len()).any(|window| window == needle)
}

/// A running `koya-vmm`. Killed when it is dropped.
pub struct Vm {
    child: Child,
    /// The guest's console, as far as it goes to standard output.
    pub console: Output,
    /// What the monitor says.
    pub log: Output,
    stdin: Option<ChildStdin>,
}

impl Vm {
    /// Starts the monitor with these arguments, its streams connected to the test.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(vmm_binary());
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts the microVM that `config` describes, without an API socket.
    pub fn from_config(scratch: &Scratch, config: &str) -> Self {
        let file = scratch.file("vm.json", config);
        Self::start([OsStr::new("--no-api"), "--config-file".as_ref(), file.as_os_str()])
    }

    /// Starts `command`, which runs the monitor.
    pub fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::spawn_as_it_is(command)
    }

    /// Starts `command` with the streams that it has been given; those that are pipes of the test's are read.
    pub fn spawn_as_it_is(mut command: Command) -> Self {
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {command:?}: {error}"),
        };
        let console = child.stdout.take().map(Output::collect).unwrap_or_default();
        let log = child.stderr.take().map(Output::collect).unwrap_or_default();
        let stdin = child.stdin.take();
        Self {
            child,
            console,
            log,
            stdin,
        }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types at the guest's console.
    pub fn type_in(&mut self, text: &[u8]) -> io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => stdin.write_all(text).and_then(|()| stdin.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Closes the monitor's standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until the console shows `needle`.
    ///
    /// # Panics
    /// With the console and the log, when it does not within [`PATIENCE`].
    pub fn expect(&self, needle: &str) {
        if !self.console.wait_for(needle, PATIENCE) {
            panic!("no {needle:?} on the console\n{}", self.transcript());
        }
    }

    /// Sends a signal to the monitor.
    pub fn signal(&self, signal: i32) {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "cannot signal {}",
            self.pid()
        );
    }

    /// Whether the monitor still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the monitor's end.
    ///
    /// # Panics
    /// With the console and the log, when it does not come within [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(PATIENCE)
    }

    /// Waits for the monitor's end, at most `patience`.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_within(&mut self, patience: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    // The collectors see the end of the streams a moment later.
                    self.console.wait_for("\0never\0", Duration::from_secs(1));
                    self.log.wait_for("\0never\0", Duration::from_secs(1));
                    return status;
                }
                Ok(None) if start.elapsed() < patience => thread::sleep(Duration::from_millis(2)),
                Ok(None) => panic!("koya-vmm still runs after {patience:?}\n{}", self.transcript()),
                Err(error) => panic!("cannot wait: {error}"),
            }
        }
    }

    /// Waits for the end and checks its exit code.
    ///
    /// # Panics
    /// With the console and the log, when it is another one.
    pub fn expect_exit(&mut self, code: i32) {
        let status = self.wait();
        assert_eq!(
            status.code(),
            Some(code),
            "{status} (signal {:?})\n{}",
            status.signal(),
            self.transcript()
        );
    }

    /// Log and console, for the message of a failed test: of each the end, where the trouble is.
    pub fn transcript(&self) -> String {
        format!(
            "--- log\n{}\n--- console\n{}",
            ending(&self.log.text()),
            ending(&self.console.text())
        )
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A config file for `kernel` with these arguments, one vCPU and 128 MiB, and `more` members in front.
pub fn config(kernel: &Path, boot_args: &str, more: &str) -> String {
    let separator = if more.is_empty() { "" } else { ", " };
    format!(
        r#"{{ {more}{separator}"boot-source": {{ "kernel_image_path": {:?}, "boot_args": {boot_args:?} }} }}"#,
        kernel.display().to_string()
    )
}
