//! The phases of a start, seen from outside: when the VMM's process began, and what the agent's clocks say of the
//! kernel and of itself once the container has said its line.

use super::parts::Parts;
use super::run::LINE;
use super::say;
use crate::bench::BenchError;
use crate::bench::clocks::{births, boot_clock, started};
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

pub(super) fn measure(parts: &Parts, context: &Context, runs: usize) -> Timeline {
    let mut timeline = Timeline::new("timeline", "koya run, phase by phase", &PHASES);
    for round in 0..=runs {
        match sample(parts, context) {
            Ok(ends) if round > 0 => timeline.note(&ends),
            Ok(_) => {}
            Err(error) => say(&format!("a start's phases: {}", error.in_full())),
        }
        // One that never was cannot be removed.
        let _ = parts.says(["rm", "--force", NAME]);
    }
    timeline
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
    let said = line.saturating_duration_since(koya.started());
    let births = births(&parts.vsock(&parts.field(NAME, ".Vm.Id")?))?;
    let vmm = started(&parts.field(NAME, ".Vm.Pid")?)?;
    let [vmm, kernel, agent] = [vmm, births.kernel, births.agent].map(|moment| moment.saturating_sub(before));
    Ok([vmm, kernel, agent, said].map(|end| end.as_secs_f64() * 1e3))
}
