//! One microVM of `koya run` that stays: exec from the host beside crun in the same guest, memory, throughput.

use std::thread;
use std::time::Duration;

use super::parts::Parts;
use super::tree::{BENCH, DONE};
use super::{Sheet, guest, say, throughput};
use crate::bench::BenchError;
use crate::bench::measure::{Context, milliseconds};
use crate::bench::options::Options;
use crate::bench::smaps::{Pages, held};
use crate::bench::subject::Subject;

/// The figures of this file.
pub(super) const MEASURES: [&str; 7] = [
    "exec-host",
    "host-memory",
    "vmm-memory",
    "monitor-memory",
    "exec-output",
    "exec-input",
    "run-through",
];
/// Name of the container with one process that sleeps.
pub(super) const IDLE: &str = "idle";
/// Name of the one with crun in it.
const HOUSE: &str = "house";
/// Until a guest has nothing more to do.
const CALM: Duration = Duration::from_secs(3);
/// Execs for each round that the user asks for.
const ROUNDS: usize = 3;

pub(super) fn measure(parts: &Parts, context: &Context, options: &Options, sheet: &mut Sheet) {
    if let Err(error) = idle(parts, options, sheet) {
        say(&format!("an idle container: {}", error.in_full()));
        sheet.note("host-memory", Subject::KOYA, Err(&error));
    }
    if let Err(error) = execs(parts, context, options.runs.saturating_mul(ROUNDS), sheet) {
        say(&format!("koya exec: {}", error.in_full()));
        sheet.note("exec-host", Subject::KOYA, Err(&error));
    }
    for name in [IDLE, HOUSE] {
        // One that never was cannot be removed.
        let _ = parts.says(["rm", "--force", name]);
    }
}

fn idle(parts: &Parts, options: &Options, sheet: &mut Sheet) -> Result<(), BenchError> {
    let image = parts.image.to_string_lossy();
    let words = parts.run_words(&["--detach", "--name", IDLE], &image, &["sleep", "1000000"]);
    parts.says(words.iter().map(String::as_str))?;
    thread::sleep(CALM);
    let vmm = held(&parts.field(IDLE, ".Vm.Pid")?, options.memory_mib, Pages::Whole)?;
    let vmm = vmm.with_guest()?.own;
    let monitor = held(
        &parts.field(IDLE, ".Vm.MonitorPid")?,
        options.memory_mib,
        Pages::Whole,
    )?
    .own;
    sheet.note("vmm-memory", Subject::KOYA, Ok(vmm));
    sheet.note("monitor-memory", Subject::KOYA, Ok(monitor));
    sheet.note("host-memory", Subject::KOYA, Ok(vmm + monitor));
    throughput::measure(parts, options.runs, sheet);
    parts.says(["rm", "--force", IDLE]).map(drop)
}

/// crun needs a privileged container; what it is compared with is in the same one.
fn execs(parts: &Parts, context: &Context, runs: usize, sheet: &mut Sheet) -> Result<(), BenchError> {
    let image = parts.runtimes_image.to_string_lossy();
    let options = ["--detach", "--privileged", "--tmpfs", "/run", "--name", HOUSE];
    let words = parts.run_words(&options, &image, &["sleep", "1000000"]);
    parts.says(words.iter().map(String::as_str))?;
    for round in 0..=runs {
        let mut exec = parts.spawn(["exec", HOUSE, "true"], &context.errors())?;
        let (code, when) = exec.exit(context.limit)?;
        if code != 0 {
            return Err(exec.early_exit("the end of true"));
        }
        if round > 0 {
            sheet.note("exec-host", Subject::KOYA, Ok(milliseconds(&exec, when)));
        }
    }
    let runs = runs.to_string();
    let output = parts.says(["exec", HOUSE, BENCH, "inside", "crun", &runs])?;
    if !output.contains(DONE) {
        let found = output.chars().take(200).collect();
        return Err(BenchError::Output {
            expected: "the samples of crun",
            found,
        });
    }
    // There it is crun's exec, here what `koya exec` is compared with.
    guest::note(
        &output.replace(" exec crun ", " exec-host crun "),
        &["exec-host"],
        sheet,
    );
    parts.says(["rm", "--force", HOUSE]).map(drop)
}
