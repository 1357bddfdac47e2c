//! What runs in a guest: `koya-bench inside all|crun RUNS`. Prints a line for each sample.

use std::time::Instant;

use super::runtimes::{self, Runtime};
use super::tree::DONE;
use crate::bench::BenchError;
use crate::bench::subject::Subject;

/// What a sample's line begins with, and that of a failure.
const SAMPLE: &str = "koya-bench: sample ";
const FAILURE: &str = "koya-bench: failure ";

/// Samples of one container's life, by figure.
type Life = [(&'static str, f64); 4];

/// Measures in this guest: all three runtimes, or only crun's exec.
///
/// # Errors
/// When the words are not understood, or this process cannot prepare itself. What fails later is a line.
pub fn run(words: &[String]) -> Result<(), BenchError> {
    let (which, runs) = match words {
        [which, runs] => (which.as_str(), runs.parse::<usize>().unwrap_or(0)),
        _ => ("", 0),
    };
    if runs == 0 || !["all", "crun"].contains(&which) {
        let what =
            "inside: expected all or crun, and how often; it is run in a guest by the suite containers";
        return Err(BenchError::Usage(what.into()));
    }
    runtimes::prepare()?;
    let [crun, runc] = Runtime::programs();
    if which == "crun" {
        execs(&[crun], runs);
        println!("{DONE}");
        return Ok(());
    }
    let mut all = Vec::new();
    match Runtime::agent() {
        Ok(agent) => all.push(agent),
        Err(error) => failure("life", Subject::KOYA, &error),
    }
    if let Some(agent) = all.first() {
        memory(agent);
    }
    all.extend([crun, runc]);
    lives(&all, runs);
    execs(&all, runs);
    Ok(())
}

/// The agent with one container that sleeps.
fn memory(agent: &Runtime) {
    let outcome = agent.create("idle", &["sleep", "1000"]).and_then(|created| {
        created.run()?;
        agent.start("idle")?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        let resident = agent.resident();
        agent.delete("idle", true)?;
        Ok(resident)
    });
    match outcome {
        Ok(Some(resident)) => sample("agent-memory", agent.subject(), resident),
        Ok(None) => {}
        Err(error) => failure("agent-memory", agent.subject(), &error),
    }
}

/// Containers that run `true`, from their creation to their removal; the first round does not count.
fn lives(all: &[Runtime], runs: usize) {
    for round in 0..=runs {
        for runtime in all {
            match life(runtime, round) {
                Ok(samples) if round > 0 => {
                    for (figure, milliseconds) in samples {
                        sample(figure, runtime.subject(), milliseconds);
                    }
                }
                Ok(_) => {}
                Err(error) => failure("life", runtime.subject(), &error),
            }
        }
    }
}

fn life(runtime: &Runtime, round: usize) -> Result<Life, BenchError> {
    let id = format!("life-{round}");
    let created = runtime.create(&id, &["true"])?;
    let begun = Instant::now();
    let pid = created.run()?;
    let create = elapsed(begun);
    let starting = Instant::now();
    runtime.start(&id)?;
    let start = elapsed(starting);
    runtime.await_end(&id, pid)?;
    let deleting = Instant::now();
    runtime.delete(&id, false)?;
    let delete = elapsed(deleting);
    let life = elapsed(begun);
    Ok([
        ("create", create),
        ("start", start),
        ("delete", delete),
        ("life", life),
    ])
}

/// `true` in a container that runs; the first round does not count.
fn execs(all: &[Runtime], runs: usize) {
    let mut running = Vec::new();
    for runtime in all {
        let begun = runtime.create("house", &["sleep", "1000"]).and_then(|created| {
            created.run()?;
            runtime.start("house")
        });
        match begun {
            Ok(()) => running.push(runtime),
            Err(error) => failure("exec", runtime.subject(), &error),
        }
    }
    for round in 0..=runs {
        for runtime in &running {
            let outcome = runtime
                .exec("house", &format!("x{round}"), &["true"])
                .and_then(|exec| {
                    let begun = Instant::now();
                    exec.run()?;
                    Ok(elapsed(begun))
                });
            match outcome {
                Ok(milliseconds) if round > 0 => sample("exec", runtime.subject(), milliseconds),
                Ok(_) => {}
                Err(error) => failure("exec", runtime.subject(), &error),
            }
        }
    }
    for runtime in running {
        if let Err(error) = runtime.delete("house", true) {
            failure("exec", runtime.subject(), &error);
        }
    }
}

fn elapsed(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn sample(figure: &str, subject: Subject, value: f64) {
    println!("{SAMPLE}{figure} {} {value:.4}", word(subject));
}

fn failure(figure: &str, subject: Subject, error: &BenchError) {
    println!("{FAILURE}{figure} {} {}", word(subject), error.in_full());
}

fn word(subject: Subject) -> &'static str {
    match subject {
        Subject::Crun => "crun",
        Subject::Runc => "runc",
        _ => "koya",
    }
}

/// A line of a guest that is a sample or a failure: its figure, whose, and what it tells.
pub(super) fn parse(line: &str) -> Option<(&str, Subject, Result<f64, BenchError>)> {
    let (rest, failed) = match (
        line.trim().strip_prefix(SAMPLE),
        line.trim().strip_prefix(FAILURE),
    ) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return None,
    };
    let mut words = rest.splitn(3, ' ');
    let figure = words.next()?;
    let subject = match words.next()? {
        "koya" => Subject::KOYA,
        "crun" => Subject::Crun,
        "runc" => Subject::Runc,
        _ => return None,
    };
    let told = words.next()?;
    let found = || BenchError::Output {
        expected: "a sample",
        found: told.to_owned(),
    };
    let sample = if failed {
        Err(found())
    } else {
        told.parse().map_err(|_| found())
    };
    Some((figure, subject, sample))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_guest_are_samples_failures_or_nothing() {
        let (figure, subject, sample) = parse("koya-bench: sample exec crun 12.5\r").unwrap();
        assert_eq!((figure, subject, sample.unwrap()), ("exec", Subject::Crun, 12.5));
        let (figure, subject, sample) = parse("koya-bench: failure life koya no such file").unwrap();
        assert_eq!((figure, subject), ("life", Subject::KOYA));
        assert!(sample.unwrap_err().to_string().contains("no such file"));
        assert!(parse("koya-bench: sample exec other 1").is_none());
        assert!(parse("[    0.1] random: crng init done").is_none());
    }

    #[test]
    fn words_that_make_no_sense_are_refused() {
        for words in [&["all", "0"][..], &["some", "3"], &["all"]] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert!(matches!(run(&words), Err(BenchError::Usage(_))), "{words:?}");
        }
    }
}
