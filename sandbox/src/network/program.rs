//! Programs that make networks: each is given its input whole, gets all the time it needs, but not for ever, and its output is
//! read when it has ended.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::NetworkError;

/// Where programs of the system are. iptables is not in everybody's PATH, and is to be found in the first place.
const FOLDERS: [&str; 6] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];
/// How long one may take. A tenth of a second is usual.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);
/// Longest output that is read.
const MAX_OUTPUT: u64 = 1 << 20;

/// What became of one.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: ExitStatus,
    pub(super) output: String,
    pub(super) errors: String,
}

impl Outcome {
    /// Its last words, or how it ended.
    pub(super) fn last_words(&self) -> String {
        let last = self.errors.lines().last();
        last.map_or_else(|| self.status.to_string(), str::to_owned)
    }
}

/// One of the system's, if it is there.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let mut places = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    places.find(|place| place.is_file())
}

/// Runs one.
pub(super) fn run(command: &mut Command, input: &str) -> Result<Outcome, NetworkError> {
    let program = PathBuf::from(command.get_program());
    let failed = |source| NetworkError::Run {
        program: program.clone(),
        source,
    };
    // A pipe would stay open as long as what it starts runs: aardvark-dns.
    let mut stdin = memory().map_err(failed)?;
    let (output, errors) = (memory().map_err(failed)?, memory().map_err(failed)?);
    stdin
        .write_all(input.as_bytes())
        .and_then(|()| stdin.rewind())
        .map_err(failed)?;
    command
        .env("PATH", FOLDERS.join(":"))
        .stdin(stdin)
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(errors.try_clone().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    let Some(status) = await_end(&mut child).map_err(failed)? else {
        let _ = child.kill();
        let _ = child.wait();
        let seconds = PATIENCE.as_secs();
        return Err(NetworkError::Slow { program, seconds });
    };
    Ok(Outcome {
        status,
        output: text(output).map_err(failed)?,
        errors: text(errors).map_err(failed)?,
    })
}

/// Waits for a program, but not for ever; `None` if it has not ended by then.
fn await_end(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        match &end {
            Some(end) => {
                let rest = PATIENCE.saturating_sub(start.elapsed()).try_into().ok();
                let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], rest.as_ref());
            }
            // A kernel without pidfd_open(2).
            None => thread::sleep(PAUSE),
        }
    }
    child.try_wait()
}

fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("koya", MemfdFlags::CLOEXEC)?))
}

fn text(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
