//! The peak resident memory of a VMM whose guest has started and halted.
//!
//! From `VmHWM` in `/proc`: `ru_maxrss` of a child would not do, because executing a program carries the
//! peak of the memory it was started from along, and that is the parent's.

use std::fs;

use super::{Better, Context, Figure, Goal, Measurement};
use crate::bench::BenchError;
use crate::bench::vmm::{Machine, Vmm};

/// See the module.
#[derive(Debug)]
pub struct PeakMemory;

const FIGURES: [Figure; 1] = [Figure {
    name: "peak-memory",
    title: "Peak resident memory",
    unit: "MB",
    better: Better::Lower,
    goal: Some(Goal::AtMost(3.0)),
}];

impl Measurement for PeakMemory {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn rounds(&self, runs: usize) -> usize {
        runs.min(10)
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let mut process = context.start(vmm, &Machine::tiny(context.guest("halt")))?;
        process.line("halted", context.limit)?;
        let path = format!("/proc/{}/status", process.pid());
        let status = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
        let kib = peak_kib(&status);
        let kib = kib.ok_or(BenchError::Output {
            expected: "VmHWM in a status file",
            found: status,
        })?;
        Ok(vec![kib * 1024.0 / 1e6])
    }
}

/// The peak resident memory in KiB that a `/proc/PID/status` tells.
fn peak_kib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_peak_not_the_present() {
        assert_eq!(
            peak_kib("VmPeak:\t 9 kB\nVmHWM:\t    2764 kB\nVmRSS:\t    100 kB\n"),
            Some(2764.0)
        );
        assert_eq!(peak_kib("VmRSS:\t 1 kB\n"), None);
    }
}
