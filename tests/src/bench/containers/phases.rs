//! The phases of a start, seen from outside: when the VMM's process began, and what the agent's clocks say of the
//! kernel and of itself once the container has said its line.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use koya_proto::RPC_PORT;
use koya_proto::client::{AgentClient, connect};

use super::parts::Parts;
use super::run::LINE;
use super::say;
use crate::bench::BenchError;
use crate::bench::measure::Context;
use crate::bench::timeline::Timeline;

/// Name of the container.
const NAME: &str = "timeline";
/// What happens one after another.
const PHASES: [&str; 4] = [
    "koya and its monitor: spawn → VMM's process",
    "VMM: process → kernel's clock runs",
    "kernel: → agent begins",
    "agent: → container's first line",
];

pub(super) fn measure(parts: &Parts, context: &Context, runs: usize, timeline: &mut Timeline) {
    timeline.name(&PHASES);
    for round in 0..=runs {
        match sample(parts, context) {
            Ok(ends) if round > 0 => timeline.note(&ends),
            Ok(_) => {}
            Err(error) => say(&format!("a start's phases: {}", error.in_full())),
        }
        // One that never was cannot be removed.
        let _ = parts.says(["rm", "--force", NAME]);
    }
}

/// When each phase ended, in milliseconds since the start.
fn sample(parts: &Parts, context: &Context) -> Result<[f64; 4], BenchError> {
    let image = parts.image.to_string_lossy();
    let script = format!("echo '{LINE}'; sleep 1000");
    let words = parts.run_words(
        &["--network", "none", "--name", NAME],
        &image,
        &["sh", "-c", &script],
    );
    let before = boot_clock();
    let mut koya = parts.spawn(words.iter().map(String::as_str), &context.errors())?;
    let line = koya.line(LINE, context.limit)?;
    let since = |when: Instant| when.saturating_duration_since(koya.started());

    let agent = agent(&parts.vsock(&parts.field(NAME, ".Vm.Id")?))?;
    let failed = |error| BenchError::Agent(Box::new(error));
    let clocks = |ask: &dyn Fn() -> Result<u64, BenchError>| -> Result<Duration, BenchError> {
        let told = Duration::from_nanos(ask()?);
        // The answer was made a moment ago: a call takes a fraction of a phase.
        Ok(since(Instant::now()).saturating_sub(told))
    };
    let kernel = clocks(&|| Ok(agent.details().map_err(failed)?.boot_time_ns))?;
    let begun = clocks(&|| Ok(agent.health().map_err(failed)?.uptime_ns))?;
    let vmm = started(&parts.field(NAME, ".Vm.Pid")?)?.saturating_sub(before);
    Ok([vmm, kernel, begun, since(line)].map(|end| end.as_secs_f64() * 1e3))
}

/// When a process began, since the host booted: field 22 of proc_pid_stat(5), in hundredths of a second.
fn started(pid: &str) -> Result<Duration, BenchError> {
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
fn boot_clock() -> Duration {
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
