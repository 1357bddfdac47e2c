//! Files on a bind volume, which is in the host's memory: fio, and a tree of small files.
//!
//! Each block is read and written once, in pieces that a program asks for, and what the container's kernel may have in its
//! cache is dropped before: what is measured is the way to the host. What is written is synchronised at the end.

use serde_json::Value;

use super::files::seconds;
use super::parts::Parts;
use super::podman::{BENCH, Podman, TOOLS};
use super::{PATIENCE, TURNS, rounds, say};
use crate::bench::BenchError;
use crate::bench::linux::fill;
use crate::bench::measure::Context;
use crate::bench::options::Options;
use crate::bench::sheet::Sheet;
use crate::bench::subject::Subject;
use crate::bench::tree;

/// The figures of this file.
pub(super) const MEASURES: [&str; 8] = [
    "volume-random-read",
    "volume-random-write",
    "volume-sequential-read",
    "volume-sequential-write",
    "files-create",
    "files-stat",
    "files-read",
    "files-delete",
];
/// fio's words for the first four of them.
const JOBS: [(&str, &str); 4] = [
    ("randread", "4k"),
    ("randwrite", "4k"),
    ("read", "1m"),
    ("write", "1m"),
];
/// Size of the file that fio reads and writes.
const MIB: usize = 64;
/// Small files.
const FILES: usize = 10_000;

/// A first round would not count: what it warms is dropped.
pub(super) fn measure(
    parts: &Parts,
    podman: &Podman<'_>,
    context: &Context,
    options: &Options,
    sheet: &mut Sheet,
) {
    let folder = parts.scratch.join("volume");
    let prepared = podman
        .with_tools()
        .and_then(|()| tree::make_folder(&folder))
        .and_then(|()| {
            let data = folder.join("data");
            fill(&data, MIB).map_err(BenchError::path("write", data))
        });
    if let Err(error) = prepared {
        say(&format!("a volume: {}", error.in_full()));
        sheet.note(MEASURES[0], Subject::KOYA, Err(&error));
        return;
    }
    let volume = format!("{}:/volume", folder.display());
    let (fio, tree) = MEASURES.split_at(JOBS.len());
    let trees = options.wants(tree);
    for round in 0..options.runs {
        for subject in TURNS.into_iter().filter(|_| options.wants(fio)) {
            note(fio, subject, io(podman, &volume, subject, context), sheet);
        }
        for subject in TURNS
            .into_iter()
            .filter(|_| trees && round < rounds(options, context))
        {
            let folder = format!("/volume/{round}-{}", subject.label());
            let samples = small_files(podman, [&volume, &folder], subject, context);
            note(tree, subject, samples, sheet);
        }
    }
}

fn note(figures: &[&str], subject: Subject, samples: Result<[f64; 4], BenchError>, sheet: &mut Sheet) {
    match samples {
        Ok(samples) => {
            for (figure, sample) in figures.iter().zip(samples) {
                sheet.take(figure, subject, Ok(sample), true);
            }
        }
        Err(error) => {
            for figure in figures {
                sheet.take(figure, subject, Err(&error), true);
            }
        }
    }
}

fn io(
    podman: &Podman<'_>,
    volume: &str,
    subject: Subject,
    context: &Context,
) -> Result<[f64; 4], BenchError> {
    let size = format!("--size={MIB}m");
    let mut words = vec!["run", "--rm", "--network", "none", "--volume", volume, TOOLS];
    let common = "/usr/bin/fio --output-format=json --ioengine=psync --filename=/volume/data --end_fsync=1";
    words.extend(common.split(' '));
    words.push(&size);
    let jobs = JOBS.map(|(way, block)| format!("--name={way} --stonewall --rw={way} --bs={block}"));
    words.extend(jobs.iter().flat_map(|job| job.split(' ')));
    let output = said(podman, &words, subject, context)?;
    rates(&output).ok_or_else(|| unexpected("what four jobs of fio reached", output))
}

fn small_files(
    podman: &Podman<'_>,
    [volume, folder]: [&str; 2],
    subject: Subject,
    context: &Context,
) -> Result<[f64; 4], BenchError> {
    let count = FILES.to_string();
    let words = ["run", "--rm", "--network", "none", "--volume", volume, TOOLS];
    let words = [&words[..], &[BENCH, "files", folder, &count]].concat();
    let output = said(podman, &words, subject, context)?;
    let seconds = seconds(&output).ok_or_else(|| unexpected("the time of each step", output))?;
    Ok(seconds.map(|seconds| FILES as f64 / seconds / 1e3))
}

fn unexpected(expected: &'static str, output: String) -> BenchError {
    BenchError::Output {
        expected,
        found: output.chars().take(200).collect(),
    }
}

/// What a container says until its good end.
fn said(
    podman: &Podman<'_>,
    words: &[&str],
    subject: Subject,
    context: &Context,
) -> Result<String, BenchError> {
    let mut process = podman.spawn(subject, words.iter().copied(), context)?;
    let said = match process.exit(context.limit.saturating_mul(PATIENCE)) {
        Ok((0, _)) => Ok(String::from_utf8_lossy(process.output()).into_owned()),
        Ok(_) => Err(process.early_exit("the last figure")),
        Err(error) => Err(error),
    };
    if said.is_err() {
        podman.clear(subject);
    }
    said
}

/// Thousands of operations a second, or for large blocks MB/s, of each job in fio's JSON.
fn rates(output: &str) -> Option<[f64; 4]> {
    // Warnings come before it.
    let report: Value = serde_json::from_str(output.get(output.find('{')?..)?).ok()?;
    let jobs = report.get("jobs")?.as_array()?;
    let of = |(way, block): (&str, &str)| {
        let job = jobs
            .iter()
            .find(|job| job.get("jobname").is_some_and(|name| name == way))?;
        let side = job.get(if way.ends_with("read") { "read" } else { "write" })?;
        let rate = match block {
            "4k" => side.get("iops")?.as_f64()? / 1e3,
            _ => side.get("bw_bytes")?.as_f64()? / 1e6,
        };
        (rate > 0.0 && job.get("error").is_some_and(|error| error == 0)).then_some(rate)
    };
    let [one, two, three, four] = JOBS.map(of);
    Some([one?, two?, three?, four?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        let side = |bytes: u64, iops: f64| json!({ "bw_bytes": bytes, "iops": iops });
        let job = |name: &str, read: Value, write: Value| json!({ "jobname": name, "error": 0, "read": read, "write": write });
        json!({ "jobs": [
            job("randread", side(4096, 1500.0), side(0, 0.0)),
            job("randwrite", side(0, 0.0), side(4096, 2500.0)),
            job("read", side(3_000_000, 3.0), side(0, 0.0)),
            job("write", side(0, 0.0), side(4_000_000, 4.0)),
        ] })
    }

    #[test]
    fn reads_what_fio_reports() {
        let text = format!("fio: a warning\n{}\n", report());
        assert_eq!(rates(&text), Some([1.5, 2.5, 3.0, 4.0]));
    }

    #[test]
    fn a_job_that_failed_or_did_nothing_is_no_figure() {
        let mut failed = report();
        failed["jobs"][1]["error"] = json!(5);
        assert_eq!(rates(&failed.to_string()), None);
        let mut idle = report();
        idle["jobs"][2]["read"]["bw_bytes"] = json!(0);
        assert_eq!(rates(&idle.to_string()), None);
        assert_eq!(rates("fio: no such file"), None);
    }
}
