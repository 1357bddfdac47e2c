//! The stages of `podman run --rm` and `ctr run --rm` of `true`: what engines call a runtime for, and in between themselves.
//! With Koya each microVM boots, template or not: a fork has no clocks that tell of its start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use super::calm::Calm;
use super::containerd::Containerd;
use super::parts::Parts;
use super::podman::{IMAGE, Podman};
use super::stage::Call;
use super::{TURNS, say};
use crate::bench::BenchError;
use crate::bench::clocks::{boot_clock, booting};
use crate::bench::measure::Context;
use crate::bench::process::Process;
use crate::bench::subject::Subject;
use crate::bench::timeline::Timeline;
use crate::bench::tree;

/// With Koya, the creation in its parts.
const KOYA: [&str; 10] = [
    "engine: spawn → create begins",
    "koya-runtime create: → VMM's process",
    "VMM: process → kernel's clock runs",
    "kernel: → agent begins",
    "agent: → container created, create ends",
    "engine: → start begins",
    "koya-runtime start",
    "true, its end, engine: → delete begins",
    "koya-runtime delete",
    "engine: → its end",
];
const CRUN: [&str; 7] = [
    "engine: spawn → create begins",
    "crun create",
    "engine: → start begins",
    "crun start",
    "true, its end, engine: → delete begins",
    "crun delete",
    "engine: → its end",
];

/// Who starts the containers.
#[derive(Clone, Copy)]
enum Engine<'a> {
    Podman(&'a Podman<'a>),
    Containerd(&'a Containerd<'a>),
}

/// Each engine with each runtime; a first round fills caches.
pub(super) fn measure(
    parts: &Parts,
    podman: &Podman<'_>,
    containerd: &Containerd<'_>,
    context: &Context,
    runs: usize,
) -> Vec<Timeline> {
    let timeline = |subject, name, title| match subject {
        Subject::Crun => Timeline::new(name, title, &CRUN),
        _ => Timeline::new(name, title, &KOYA),
    };
    let mut all = Vec::new();
    for (engine, subject, name, title) in [
        (
            Engine::Podman(podman),
            Subject::KOYA,
            "podman-koya",
            "podman run of true with Koya, without template, stage by stage",
        ),
        (
            Engine::Podman(podman),
            Subject::Crun,
            "podman-crun",
            "podman run of true with crun, stage by stage",
        ),
        (
            Engine::Containerd(containerd),
            Subject::KOYA,
            "ctr-koya",
            "ctr run of true with Koya, without template, stage by stage",
        ),
        (
            Engine::Containerd(containerd),
            Subject::Crun,
            "ctr-crun",
            "ctr run of true with crun, stage by stage",
        ),
    ] {
        all.push((engine, subject, timeline(subject, name, title)));
    }
    if let Err(error) = staged(parts, || rounds(&mut all, context, runs)) {
        say(&format!("the stages of a start: {}", error.in_full()));
    }
    all.into_iter().map(|(_, _, timeline)| timeline).collect()
}

fn rounds(all: &mut [(Engine<'_>, Subject, Timeline)], context: &Context, runs: usize) {
    let calm = Calm::now(&context.scratch);
    for round in 0..=runs {
        for (engine, subject, timeline) in &mut *all {
            let sample = sample(*engine, *subject, round, context);
            calm.wait(context.limit);
            match sample {
                Ok(ends) if round > 0 => timeline.note(&ends),
                Ok(_) => {}
                Err(error) => say(&format!("{}: {}", timeline.title, error.in_full())),
            }
        }
    }
}

/// Does something while this program is in the place of the runtimes.
fn staged(parts: &Parts, work: impl FnOnce()) -> Result<(), BenchError> {
    let own = parts.scratch.join("koya-bench");
    let settings = booting(&parts.scratch)?;
    tree::own(&own)?;
    for subject in TURNS {
        let (log, program) = (log(&parts.scratch), parts.program(subject));
        let script = format!(
            "#!/bin/busybox sh\nKOYA_CONFIG={} exec {} stage {} {} \"$@\"\n",
            settings.display(),
            own.display(),
            log.display(),
            program.display()
        );
        parts.replace(subject, |place| tree::write(place, &script, 0o755))?;
    }
    work();
    for subject in TURNS {
        let program = parts.program(subject);
        parts.replace(subject, |place| {
            symlink(&program, place).map_err(BenchError::path("make", place))
        })?;
    }
    Ok(())
}

fn log(scratch: &Path) -> std::path::PathBuf {
    scratch.join("stages.log")
}

/// When each stage ended, in milliseconds since the spawn.
fn sample(
    engine: Engine<'_>,
    subject: Subject,
    round: usize,
    context: &Context,
) -> Result<Vec<f64>, BenchError> {
    let log = log(&context.scratch);
    fs::write(&log, "").map_err(BenchError::path("write", &log))?;
    let before = boot_clock();
    let ended = match engine {
        Engine::Podman(podman) => finish(
            podman.spawn(subject, ["run", "--rm", IMAGE, "true"], context)?,
            context,
        ),
        Engine::Containerd(containerd) => {
            let id = format!("stages-{}-{round}", subject.label());
            let ended = finish(containerd.run(subject, &id, context)?, context);
            if ended.is_err() {
                containerd.forget(&id);
            }
            ended
        }
    };
    let ended = before.saturating_add(ended?);
    let text = fs::read_to_string(&log).map_err(BenchError::path("read", &log))?;
    let calls: Vec<Call> = text.lines().filter_map(Call::parse).collect();
    ends(subject, before, &calls, ended).ok_or(BenchError::Output {
        expected: "create, start and delete of a runtime",
        found: text,
    })
}

/// Waits for a good end; how long it took.
fn finish(mut process: Process, context: &Context) -> Result<Duration, BenchError> {
    match process.exit(context.limit)? {
        (0, when) => Ok(since(process.started(), when)),
        _ => Err(process.early_exit("a good end")),
    }
}

fn since(start: Instant, when: Instant) -> Duration {
    when.saturating_duration_since(start)
}

/// The end of each stage, without the time in which the agent was asked for its clocks.
fn ends(subject: Subject, spawned: Duration, calls: &[Call], ended: Duration) -> Option<Vec<f64>> {
    let call = |verb: &str| calls.iter().find(|call| call.verb == verb);
    let (create, start, delete) = (call("create")?, call("start")?, call("delete")?);
    let pause = create.told.saturating_sub(create.end);
    let later = |moment: Duration| moment.saturating_sub(pause);
    let mut moments = vec![create.begin];
    if subject == Subject::KOYA {
        moments.extend(create.births?);
    }
    moments.push(create.end);
    moments.extend([start.begin, start.end, delete.begin, delete.end, ended].map(later));
    // Clocks of different grain may say that something ended just before it began.
    let mut last = Duration::ZERO;
    let ends = moments.into_iter().map(|moment| {
        last = last.max(moment.saturating_sub(spawned));
        last.as_secs_f64() * 1e3
    });
    Some(ends.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Vec<Call> {
        let at = Duration::from_millis;
        let call = |verb: &str, begin, end, told| Call {
            verb: verb.to_owned(),
            begin: at(begin),
            end: at(end),
            told: at(told),
            births: None,
        };
        let mut create = call("create", 1100, 1500, 1600);
        create.births = Some([1150, 1200, 1300].map(at));
        vec![
            create,
            call("start", 1650, 1700, 1700),
            call("delete", 1800, 1900, 1900),
        ]
    }

    #[test]
    fn the_time_in_which_the_agent_was_asked_is_nobodys() {
        let at = Duration::from_millis;
        let koya = ends(Subject::KOYA, at(1000), &calls(), at(2000)).unwrap();
        assert_eq!(
            koya,
            [
                100.0, 150.0, 200.0, 300.0, 500.0, 550.0, 600.0, 700.0, 800.0, 900.0
            ]
        );
        assert_eq!(koya.len(), KOYA.len());
        let crun = ends(Subject::Crun, at(1000), &calls(), at(2000)).unwrap();
        assert_eq!(crun, [100.0, 500.0, 550.0, 600.0, 700.0, 800.0, 900.0]);
        assert_eq!(crun.len(), CRUN.len());
    }

    #[test]
    fn stages_follow_each_other_and_none_is_missing() {
        let at = Duration::from_millis;
        let mut early = calls();
        early[0].births = Some([1090, 1200, 1300].map(at));
        let koya = ends(Subject::KOYA, at(1000), &early, at(2000)).unwrap();
        assert_eq!(koya[..2], [100.0, 100.0]);
        early[0].births = None;
        assert_eq!(ends(Subject::KOYA, at(1000), &early, at(2000)), None);
        assert_eq!(ends(Subject::Crun, at(1000), &calls()[..2], at(2000)), None);
    }
}
