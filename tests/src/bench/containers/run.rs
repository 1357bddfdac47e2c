//! `koya run` against a bare microVM, taking turns: to the end, and to the first line.

use std::thread;
use std::time::{Duration, Instant};

use super::Sheet;
use super::parts::Parts;
use crate::bench::BenchError;
use crate::bench::bare::{Times, times};
use crate::bench::measure::{Context, milliseconds};
use crate::bench::subject::Subject;

/// What the container says.
pub(super) const LINE: &str = "koya-bench: container";

/// The figures of this file.
pub(super) const MEASURES: [&str; 3] = ["run-exit", "run-exit-alone", "run-output"];

/// How often it is looked whether the last monitor has gone.
const LOOK: Duration = Duration::from_millis(50);

/// A start that has no network to wait for, as the bare microVM has none.
const ALONE: [&str; 3] = ["--rm", "--network", "none"];

/// A first round loads the image, warms the caches and has a template made: two starts of a kind are enough for that.
pub(super) fn measure(parts: &Parts, context: &Context, runs: usize, sheet: &mut Sheet) {
    for round in 0..=runs {
        let counts = round > 0;
        let ended = koya_true(parts, context);
        sheet.take("run-exit", Subject::KOYA, ended.as_ref().copied(), counts);
        let alone = koya(parts, context);
        let bare = parts.bare.times(context);
        for (subject, times) in [(Subject::KOYA, alone), (Subject::BareVmm, bare)] {
            let line = times.as_ref().map(|times| times.line);
            sheet.take("run-output", subject, line, counts);
            let exit = times.as_ref().map(|times| times.exit);
            sheet.take("run-exit-alone", subject, exit, counts);
            if subject == Subject::BareVmm {
                sheet.take("run-exit", subject, exit, counts);
            }
        }
    }
}

/// As its user would: with a network.
fn koya_true(parts: &Parts, context: &Context) -> Result<f64, BenchError> {
    let image = parts.image.to_string_lossy();
    let words = parts.run_words(&["--rm"], &image, &["true"]);
    let mut koya = parts.spawn(words.iter().map(String::as_str), &context.errors())?;
    let (code, when) = koya.exit(context.limit)?;
    settle(parts, context);
    match code {
        0 => Ok(milliseconds(&koya, when)),
        _ => Err(koya.early_exit("the end of true")),
    }
}

fn koya(parts: &Parts, context: &Context) -> Result<Times, BenchError> {
    let image = parts.image.to_string_lossy();
    let words = parts.run_words(&ALONE, &image, &["echo", LINE]);
    let koya = parts.spawn(words.iter().map(String::as_str), &context.errors())?;
    let times = times(koya, LINE, context);
    settle(parts, context);
    times
}

/// Waits for the monitor, which clears up after the command has ended: nobody's sample is to pay for another's.
fn settle(parts: &Parts, context: &Context) {
    let deadline = Instant::now().checked_add(context.limit);
    let is_over = || deadline.is_none_or(|deadline| Instant::now() >= deadline);
    while parts.koya_runs() && !is_over() {
        thread::sleep(LOOK);
    }
}
