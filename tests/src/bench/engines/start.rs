//! Containers that run `true`, from the engine's spawn to its end, and `true` in one that runs already: Koya, crun and a bare
//! microVM take turns.

use super::calm::Calm;
use super::containerd::Containerd;
use super::parts::Parts;
use super::podman::{IMAGE, Podman};
use super::{TURNS, say};
use crate::bench::BenchError;
use crate::bench::measure::{Context, milliseconds};
use crate::bench::options::Options;
use crate::bench::process::Process;
use crate::bench::sheet::Sheet;
use crate::bench::subject::Subject;

/// The figures of this file.
pub(super) const MEASURES: [&str; 4] = ["podman-run", "podman-run-alone", "ctr-run", "podman-exec"];
/// Execs for each round that the user asks for: each is short.
const ROUNDS: usize = 3;

/// A first round fills caches, and in the second the last template is made of those that Koya goes on from.
pub(super) fn measure(
    parts: &Parts,
    podman: &Podman<'_>,
    engine: &Containerd<'_>,
    context: &Context,
    options: &Options,
    sheet: &mut Sheet,
) {
    let starts = MEASURES
        .iter()
        .filter(|name| **name != "podman-exec" && options.wants(&[name]));
    let starts: Vec<_> = starts.copied().collect();
    if !starts.is_empty() {
        say("podman run, ctr run and bare microVMs take turns");
        let calm = Calm::now(&context.scratch);
        for round in 0..options.runs.saturating_add(2) {
            let counts = round > 1;
            for subject in TURNS {
                for figure in &starts {
                    let sample = start(figure, subject, round, podman, engine, context);
                    if sample.is_err() {
                        podman.clear(subject);
                    }
                    calm.wait(context.limit);
                    sheet.take(figure, subject, sample.as_ref().copied(), counts);
                }
            }
            let bare = parts.bare.times(context).map(|times| times.exit);
            for figure in &starts {
                sheet.take(figure, Subject::BareVmm, bare.as_ref().copied(), counts);
            }
        }
    }
    if options.wants(&["podman-exec"]) {
        say("podman exec");
        execs(podman, context, options.runs.saturating_mul(ROUNDS), sheet);
    }
}

fn start(
    figure: &str,
    subject: Subject,
    round: usize,
    podman: &Podman<'_>,
    engine: &Containerd<'_>,
    context: &Context,
) -> Result<f64, BenchError> {
    match figure {
        "ctr-run" => {
            let id = format!("true-{}-{round}", subject.label());
            let sample = ended(engine.run(subject, &id, context)?, context);
            if sample.is_err() {
                engine.forget(&id);
            }
            sample
        }
        "podman-run" => ended(
            podman.spawn(subject, ["run", "--rm", IMAGE, "true"], context)?,
            context,
        ),
        _ => {
            let words = ["run", "--rm", "--network", "none", IMAGE, "true"];
            ended(podman.spawn(subject, words, context)?, context)
        }
    }
}

/// Waits for a good end; the milliseconds until then.
pub(super) fn ended(mut process: Process, context: &Context) -> Result<f64, BenchError> {
    match process.exit(context.limit)? {
        (0, when) => Ok(milliseconds(&process, when)),
        _ => Err(process.early_exit("a good end")),
    }
}

/// A container for each of those who take turns; what podman leaves after an exec is waited for.
fn execs(podman: &Podman<'_>, context: &Context, runs: usize, sheet: &mut Sheet) {
    let name = |subject: Subject| format!("house-{}", subject.label().to_lowercase());
    let mut running = Vec::new();
    for subject in TURNS {
        let name = name(subject);
        let words = ["run", "--detach", "--name", &name, IMAGE, "sleep", "1000000"];
        match podman.says(subject, words) {
            Ok(_) => running.push((subject, name)),
            Err(error) => sheet.take("podman-exec", subject, Err(&error), false),
        }
    }
    let calm = Calm::now(&context.scratch);
    for round in 0..=runs {
        for (subject, name) in &running {
            let exec = podman.spawn(*subject, ["exec", name, "true"], context);
            let sample = exec.and_then(|exec| ended(exec, context));
            calm.wait(context.limit);
            sheet.take("podman-exec", *subject, sample.as_ref().copied(), round > 0);
        }
    }
    for (subject, name) in &running {
        if let Err(error) = podman.says(*subject, ["rm", "--force", "--time", "0", name]) {
            say(&format!("after podman exec: {}", error.in_full()));
        }
    }
}
