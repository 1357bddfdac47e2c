//! The phases of a start, seen from outside: when the VMM's process began, and, where a kernel boots, what the agent's
//! clocks say of the kernel and of itself once the container has said its line.

use super::parts::Parts;
use super::run::LINE;
use super::say;
use crate::bench::BenchError;
use crate::bench::clocks::{births, boot_clock, started};
use crate::bench::measure::Context;
use crate::bench::timeline::Timeline;

/// Name of the container.
const NAME: &str = "timeline";
/// What happens one after another where a kernel boots.
const BOOTED: [&str; 4] = [
    "koya and its monitor: spawn → VMM's process",
    "VMM: process → kernel's clock runs",
    "kernel: → agent begins",
    "agent: → container's first line",
];
/// And where the guest goes on from a template, whose clocks it has.
const FORKED: [&str; 2] = [
    "koya and its monitor: spawn → VMM's process",
    "VMM: process → fork, agent, container's first line",
];

pub(super) fn measure(parts: &Parts, context: &Context, runs: usize) -> [Timeline; 2] {
    let mut booted = Timeline::new("timeline", "koya run without template, phase by phase", &BOOTED);
    let mut forked = Timeline::new(
        "timeline-fork",
        "koya run from a template, phase by phase",
        &FORKED,
    );
    // The first that may be forked asks for a template, and the second one makes it.
    for round in 0..runs.saturating_add(2) {
        for (timeline, boots) in [(&mut booted, true), (&mut forked, false)] {
            match sample(parts, context, boots) {
                Ok(ends) if round > 1 => timeline.note(&ends),
                Ok(_) => {}
                Err(error) => say(&format!("{}: {}", timeline.title, error.in_full())),
            }
            // One that never was cannot be removed.
            let _ = parts.says(["rm", "--force", NAME]);
        }
    }
    [booted, forked]
}

/// When each phase ended, in milliseconds since the start.
fn sample(parts: &Parts, context: &Context, boots: bool) -> Result<Vec<f64>, BenchError> {
    let image = parts.image.to_string_lossy();
    let script = format!("echo '{LINE}'; sleep 1000");
    let words = parts.run_words(
        &["--network", "none", "--name", NAME],
        &image,
        &["sh", "-c", &script],
    );
    let words = words.iter().map(String::as_str);
    let before = boot_clock();
    let mut koya = match boots {
        true => parts.spawn_booting(words, &context.errors())?,
        false => parts.spawn(words, &context.errors())?,
    };
    let line = koya.line(LINE, context.limit)?;
    let said = line.saturating_duration_since(koya.started());
    let mut moments = vec![started(&parts.field(NAME, ".Vm.Pid")?)?];
    if boots {
        let births = births(&parts.vsock(&parts.field(NAME, ".Vm.Id")?))?;
        moments.extend([births.kernel, births.agent]);
    }
    let ends = moments.into_iter().map(|moment| moment.saturating_sub(before));
    Ok(ends.chain([said]).map(|end| end.as_secs_f64() * 1e3).collect())
}
