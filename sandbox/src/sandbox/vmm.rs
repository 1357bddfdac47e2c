//! The VMM's process, from its start until its guest's agent calls.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use koya_proto::CALL_PORT;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;

use super::StartError;
use super::config::VSOCK;
use crate::chance::Chance;
use crate::network::{Namespace, VmNetwork};
use crate::sockets;
use crate::tail::Tail;

/// Between two looks at whether the VMM lives and somebody waits for it.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// Name of the VMM's control socket in the sandbox's folder.
pub(crate) const API: &str = "api.sock";
/// And of its configuration.
const CONFIG: &str = "vm.json";

/// A VMM. Killed when it is dropped.
pub(crate) struct Vmm {
    process: Child,
    console: Tail,
    /// What it says itself.
    said: Tail,
}

impl Vmm {
    /// Starts `program` in `folder`, which is this microVM's alone, and in the namespace of its network. To be called by a
    /// thread that lives as long as the microVM shall: the VMM dies with it.
    pub fn start(
        program: &Path,
        folder: &Path,
        config: &Value,
        network: Option<&VmNetwork>,
    ) -> Result<(Self, Call), StartError> {
        let path = folder.join(CONFIG);
        fs::write(&path, config.to_string()).map_err(|source| StartError::Folder { path, source })?;
        let call = Call::listen(folder)?;
        let mut process = spawn(program, folder, network)?;
        let console = process.stdout.take().map(Tail::of).unwrap_or_default();
        let said = process.stderr.take().map(Tail::of).unwrap_or_default();
        let vmm = Self {
            process,
            console,
            said,
        };
        Ok((vmm, call))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The agent's call, if it comes within this time, not counted what the VMM waits for a processor.
    pub fn await_call(
        &mut self,
        call: &Call,
        patience: Duration,
        abandoned: &impl Fn() -> bool,
    ) -> Result<UnixStream, StartError> {
        let chance = Chance::of(self.pid());
        loop {
            // Before the look at the process, so that what it said last has been read.
            if let Some(stream) = call.take() {
                return Ok(stream);
            }
            if let Some(end) = self.end_by_itself() {
                return Err(end);
            }
            if abandoned() {
                return Err(StartError::Abandoned);
            }
            if chance.was(patience) {
                let last = self.last_words().unwrap_or_default();
                return Err(StartError::Silent { patience, last });
            }
        }
    }

    /// Why it has ended, if it has.
    fn end_by_itself(&mut self) -> Option<StartError> {
        let status = self.process.try_wait().ok().flatten()?;
        // Its last words may still be on their way.
        thread::sleep(LOOK);
        let last = self.last_words();
        let words = self.said.last_line();
        let words = words.or_else(|| last.clone().filter(|_| !status.success()));
        Some(match words {
            Some(words) => StartError::Ended(words),
            None if status.success() => StartError::GaveUp {
                last: last.unwrap_or_default(),
            },
            None => StartError::Ended(status.to_string()),
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it, whatever its guest does.
    pub fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The last line on the guest's console.
    pub fn last_words(&self) -> Option<String> {
        self.console.last_line()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(program: &Path, folder: &Path, network: Option<&VmNetwork>) -> Result<Child, StartError> {
    let namespace = network.map(VmNetwork::namespace).transpose()?;
    let mut command = Command::new(program);
    command
        .args(["--api-sock", API, "--config-file", CONFIG])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Keys that interrupt whoever started it are not meant for it.
        .process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes three system calls and touches no memory.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A parent that died before that gives no signal any more.
            match rustix::process::getppid() == Some(parent) {
                true => namespace.as_ref().map_or(Ok(()), Namespace::enter),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
    command.spawn().map_err(|source| StartError::Spawn {
        program: program.to_owned(),
        source,
    })
}

/// Where the agent calls when it listens: the socket to which the VMM joins connections to [`CALL_PORT`]. Nobody can
/// connect any more when this is dropped, before the first container runs.
pub(crate) struct Call {
    listener: UnixListener,
    path: PathBuf,
}

impl Call {
    /// Clears away what a VMM left that was killed, and listens.
    fn listen(folder: &Path) -> Result<Self, StartError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Folder { path, source }
        };
        for socket in [API, VSOCK] {
            let path = folder.join(socket);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(&path)(source)),
                _ => {}
            }
        }
        let path = folder.join(format!("{VSOCK}_{CALL_PORT}"));
        let listener = sockets::listen(&path).map_err(failed(&path))?;
        listener.set_nonblocking(true).map_err(failed(&path))?;
        Ok(Self { listener, path })
    }

    /// The agent's call, if it comes soon.
    fn take(&self) -> Option<UnixStream> {
        let patience = LOOK.try_into().ok();
        let _ = poll(
            &mut [PollFd::new(&self.listener, PollFlags::IN)],
            patience.as_ref(),
        );
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
