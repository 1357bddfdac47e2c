//! Reads from a raw virtio disk inside the guest, with fio: 4 KiB at random, one at a time and 32 at once,
//! and one after another in large pieces. The image is in the host's memory.

use std::time::Duration;

use super::{Better, Context, Figure, Goal, Measurement};
use crate::bench::BenchError;
use crate::bench::linux::{Linux, SCRIPT_END};
use crate::bench::process::Process;
use crate::bench::subject::Subject;
use crate::bench::vmm::Vmm;

/// See the module.
#[derive(Debug)]
pub struct Disk(pub Linux);

const FIGURES: [Figure; 3] = [
    rate("random-read-1", "Random reads, 4 KiB, depth 1", "thousand/s"),
    rate("random-read-32", "Random reads, 4 KiB, depth 32", "thousand/s"),
    rate("sequential-read", "Sequential reads, 256 KiB, depth 8", "MB/s"),
];

const fn rate(name: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure {
        name,
        title,
        unit,
        better: Better::Higher,
        goal: Some(Goal::Above(Subject::QEMU)),
    }
}

/// The arguments of fio for each figure.
const JOBS: [&str; 3] = [
    "--rw=randread --bs=4k --ioengine=psync",
    "--rw=randread --bs=4k --ioengine=libaio --iodepth=32",
    "--rw=read --bs=256k --ioengine=libaio --iodepth=8",
];

impl Measurement for Disk {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn needs_warming(&self) -> bool {
        false
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let script = script(self.0.seconds);
        let mut process = context.start(vmm, &self.0.machine(Some(&script)))?;
        let limit = context
            .limit
            .saturating_add(Duration::from_secs(self.0.seconds.into()));
        let mut values = Vec::new();
        for figure in &FIGURES {
            let result = result(&mut process, figure.name, limit)?;
            values.push(if figure.unit == "MB/s" {
                result.bytes / 1e6
            } else {
                result.reads / 1e3
            });
        }
        process.line(SCRIPT_END, context.limit)?;
        Ok(values)
    }
}

fn script(seconds: u32) -> String {
    let mut script = String::from(
        "f() { n=$1; shift; echo \"fio $n: $(fio --minimal --terse-version=3 --name=x --filename=/dev/vdb \
         --readonly --direct=1 --time_based --ramp_time=1 ",
    );
    script.push_str(&format!("--runtime={seconds} \"$@\" | cut -d';' -f7,8)\"; }}\n"));
    for (figure, job) in FIGURES.iter().zip(JOBS) {
        script.push_str(&format!("f {} {job}\n", figure.name));
    }
    script
}

/// What fio reports, per second.
struct Rates {
    bytes: f64,
    reads: f64,
}

fn result(process: &mut Process, name: &str, limit: Duration) -> Result<Rates, BenchError> {
    let (line, _) = process.rest_of_line(&format!("fio {name}:"), limit)?;
    rates(&line).ok_or(BenchError::Output {
        expected: "fio's bandwidth and rate",
        found: line,
    })
}

/// Fields 7 and 8 of fio's terse output: KiB/s and reads/s.
fn rates(line: &str) -> Option<Rates> {
    let (kib, reads) = line.split_once(';')?;
    let rates = Rates {
        bytes: kib.parse::<f64>().ok()? * 1024.0,
        reads: reads.parse().ok()?,
    };
    (rates.reads > 0.0).then_some(rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_fio_reports() {
        let rates = rates("1000;250").unwrap();
        assert_eq!((rates.bytes, rates.reads), (1_024_000.0, 250.0));
    }

    #[test]
    fn a_failed_job_is_not_a_figure() {
        assert!(rates("").is_none());
        assert!(rates("0;0").is_none());
        assert!(rates("fio: no such file;").is_none());
    }

    #[test]
    fn the_script_fits_the_command_line() {
        // Base64 makes 4 of 3; a kernel takes 2,048 bytes.
        assert!(script(600).len() * 4 / 3 < 1700, "{}", script(600).len());
    }
}
