//! What is seen of a start from outside: when a process began, and what an agent's clocks say of its guest.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_proto::RPC_PORT;
use koya_proto::client::{AgentClient, connect};

use super::BenchError;

/// Moments of a guest's life, since the host booted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Births {
    /// The guest's kernel.
    pub kernel: Duration,
    /// The agent.
    pub agent: Duration,
}

/// Writes settings with which each microVM boots: the clocks of one that goes on from a template are the template's, and say
/// nothing of its start.
pub(super) fn booting(folder: &Path) -> Result<PathBuf, BenchError> {
    let path = folder.join("booting.toml");
    fs::write(&path, "templates = false\n").map_err(BenchError::path("write", &path))?;
    Ok(path)
}

/// Asks the agent behind the socket of a vsock device how old its guest's kernel and it itself are.
pub(super) fn births(vsock: &Path) -> Result<Births, BenchError> {
    let agent = agent(vsock)?;
    let failed = |error| BenchError::Agent(Box::new(error));
    // The answer was made a moment ago: a call takes a fraction of a phase.
    let ago = |nanoseconds| boot_clock().saturating_sub(Duration::from_nanos(nanoseconds));
    Ok(Births {
        kernel: ago(agent.details().map_err(failed)?.boot_time_ns),
        agent: ago(agent.health().map_err(failed)?.uptime_ns),
    })
}

/// When a process began, since the host booted: field 22 of proc_pid_stat(5), in hundredths of a second.
pub(super) fn started(pid: &str) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
    let ticks = ticks(&stat).ok_or(BenchError::Output {
        expected: "when a process began",
        found: stat,
    })?;
    Ok(Duration::from_millis(ticks.saturating_mul(10)))
}

/// Behind the name, which may hold anything, begins field 3.
fn ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Time since the host booted.
pub(super) fn boot_clock() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to one such structure, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Connects to the agent through the socket of its microVM's vsock device.
fn agent(socket: &Path) -> Result<AgentClient, BenchError> {
    let failed = || BenchError::path("connect to", socket);
    let mut stream = UnixStream::connect(socket).map_err(failed())?;
    stream
        .write_all(format!("CONNECT {RPC_PORT}\n").as_bytes())
        .map_err(failed())?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).map_err(failed())?;
    }
    connect(stream).map_err(|error| BenchError::Agent(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_began_before_now() {
        let begun = started("self").unwrap();
        let now = boot_clock();
        assert!(
            begun <= now && now.saturating_sub(begun) < Duration::from_secs(3600),
            "{begun:?} {now:?}"
        );
    }

    #[test]
    fn names_with_spaces_and_brackets_do_not_confuse() {
        let fields: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        assert_eq!(ticks(&format!("7 (a) b) S {}", fields.join(" "))), Some(22));
    }
}
