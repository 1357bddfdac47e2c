//! TCP between the host and a container on podman's bridge, both ways, with iperf3: the client is in the container.

use std::time::Duration;

use super::podman::{GATEWAY, Podman, TOOLS};
use super::{TURNS, say};
use crate::bench::BenchError;
use crate::bench::measure::Context;
use crate::bench::measure::network::{gigabits, server};
use crate::bench::options::Options;
use crate::bench::sheet::Sheet;
use crate::bench::subject::Subject;

/// The figures of this file.
pub(super) const MEASURES: [&str; 2] = ["tcp-container-to-host", "tcp-host-to-container"];
/// What iperf3 is told for each.
const WAYS: [&[&str]; 2] = [&[], &["--reverse"]];

pub(super) fn measure(podman: &Podman<'_>, context: &Context, options: &Options, sheet: &mut Sheet) {
    let server = podman.with_tools().and_then(|()| server(&[], context));
    if let Err(error) = &server {
        say(&format!("iperf3: {}", error.in_full()));
        sheet.note(MEASURES[0], Subject::KOYA, Err(error));
        return;
    }
    for _ in 0..options.runs {
        for (figure, way) in MEASURES.iter().zip(WAYS) {
            for subject in TURNS {
                let sample = sample(podman, way, subject, options.seconds, context);
                if sample.is_err() {
                    podman.clear(subject);
                }
                sheet.take(figure, subject, sample.as_ref().copied(), true);
            }
        }
    }
}

fn sample(
    podman: &Podman<'_>,
    way: &[&str],
    subject: Subject,
    seconds: u32,
    context: &Context,
) -> Result<f64, BenchError> {
    let seconds_text = seconds.to_string();
    let words = [
        "run",
        "--rm",
        TOOLS,
        "/usr/bin/iperf3",
        "--client",
        GATEWAY,
        "--format",
        "m",
        "--omit",
        "1",
        "--time",
    ];
    let words = [&words[..], &[&seconds_text], way].concat();
    let mut process = podman.spawn(subject, words, context)?;
    let limit = context.limit.saturating_add(Duration::from_secs(seconds.into()));
    if process.exit(limit)?.0 != 0 {
        return Err(process.early_exit("iperf3's rate"));
    }
    let output = String::from_utf8_lossy(process.output()).into_owned();
    let line = output.lines().find(|line| line.trim_end().ends_with("receiver"));
    line.and_then(gigabits).ok_or_else(|| BenchError::Output {
        expected: "iperf3's rate",
        found: output.chars().take(200).collect(),
    })
}
