//! `koya run` against a bare microVM, taking turns: to the end, and to the first line.

use super::parts::Parts;
use super::tree::BARE_LINE;
use super::{Sheet, say};
use crate::bench::BenchError;
use crate::bench::measure::{Context, milliseconds};
use crate::bench::subject::Subject;

/// What the container says.
pub(super) const LINE: &str = "koya-bench: container";

/// A first round loads the image and warms the caches.
pub(super) fn measure(parts: &Parts, context: &Context, runs: usize, sheet: &mut Sheet) {
    for round in 0..=runs {
        let samples = [
            ("run-exit", Subject::KOYA, koya_exit(parts, context)),
            ("run-exit", Subject::BareVmm, bare_exit(parts, context)),
            ("run-output", Subject::KOYA, koya_line(parts, context)),
            ("run-output", Subject::BareVmm, bare_line(parts, context)),
        ];
        for (figure, subject, sample) in samples {
            if let Err(error) = &sample {
                say(&format!("{figure}, {}: {}", subject.label(), error.in_full()));
            }
            if round > 0 || sample.is_err() {
                sheet.note(figure, subject, sample.as_ref().copied());
            }
        }
    }
}

fn koya_exit(parts: &Parts, context: &Context) -> Result<f64, BenchError> {
    let image = parts.image.to_string_lossy();
    let words = parts.run_words(&["--rm"], &image, &["true"]);
    let mut koya = parts.spawn(words.iter().map(String::as_str), &context.errors())?;
    let (code, when) = koya.exit(context.limit)?;
    match code {
        0 => Ok(milliseconds(&koya, when)),
        _ => Err(koya.early_exit("the end of true")),
    }
}

fn koya_line(parts: &Parts, context: &Context) -> Result<f64, BenchError> {
    let image = parts.image.to_string_lossy();
    let words = parts.run_words(&["--rm"], &image, &["echo", LINE]);
    let mut koya = parts.spawn(words.iter().map(String::as_str), &context.errors())?;
    let when = koya.line(LINE, context.limit)?;
    koya.exit(context.limit)?;
    Ok(milliseconds(&koya, when))
}

fn bare_exit(parts: &Parts, context: &Context) -> Result<f64, BenchError> {
    let mut process = context.start(&parts.vmm, &parts.bare_machine())?;
    let (code, when) = process.exit(context.limit)?;
    match code {
        0 => Ok(milliseconds(&process, when)),
        _ => Err(process.early_exit("a power-off of the guest")),
    }
}

fn bare_line(parts: &Parts, context: &Context) -> Result<f64, BenchError> {
    let mut process = context.start(&parts.vmm, &parts.bare_machine())?;
    let when = process.line(BARE_LINE, context.limit)?;
    process.exit(context.limit)?;
    Ok(milliseconds(&process, when))
}
