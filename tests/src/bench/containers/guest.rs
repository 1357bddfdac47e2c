//! Boots the guest with the runtimes and takes the samples that it prints.

use super::parts::Parts;
use super::tree::DONE;
use super::{Sheet, inside, say};
use crate::bench::BenchError;
use crate::bench::measure::Context;
use crate::bench::subject::Subject;

/// The figures of this file.
pub(super) const MEASURES: [&str; 6] = ["exec", "create", "start", "delete", "life", "agent-memory"];
/// Rounds of a guest that boots once: each is short.
const ROUNDS: usize = 5;
/// How much longer than one sample the whole guest may take.
const PATIENCE: u32 = 10;

pub(super) fn measure(parts: &Parts, context: &Context, runs: usize, sheet: &mut Sheet) {
    match samples(parts, context, runs.saturating_mul(ROUNDS)) {
        Ok(output) => note(&output, &MEASURES, sheet),
        Err(error) => {
            say(&format!("the guest with the runtimes: {}", error.in_full()));
            for subject in [Subject::KOYA, Subject::Crun, Subject::Runc] {
                sheet.note("life", subject, Err(&error));
            }
        }
    }
}

fn samples(parts: &Parts, context: &Context, runs: usize) -> Result<String, BenchError> {
    let mut process = context.start(&parts.bare.vmm, &parts.runtimes_machine(runs))?;
    process.line(DONE, context.limit.saturating_mul(PATIENCE))?;
    Ok(String::from_utf8_lossy(process.output()).into_owned())
}

/// Notes the samples of these figures in the lines of a guest, and what failed there.
pub(super) fn note(output: &str, figures: &[&str], sheet: &mut Sheet) {
    for (figure, subject, sample) in output.lines().filter_map(inside::parse) {
        if let Err(error) = &sample {
            say(&format!("{figure}, {}: {}", subject.label(), error.in_full()));
        }
        if figures.contains(&figure) {
            sheet.note(figure, subject, sample.as_ref().copied());
        }
    }
}
