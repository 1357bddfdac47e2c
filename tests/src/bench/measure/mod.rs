//! The measurements, one file each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BenchError;
use super::host::KvmKind;
use super::process::Process;
use super::subject::Subject;
use super::vmm::{Kind, Machine, Vmm};

pub mod api_ready;
pub mod binary_size;
pub mod boot;
pub mod disk;
pub mod doorbell;
pub mod exit;
pub mod first_byte;
pub mod fork;
pub mod memory;
pub mod network;
pub mod ports;
pub mod touch;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A time or a size.
    Lower,
    /// A rate.
    Higher,
}

/// What Koya is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// A median of at most this.
    AtMost(f64),
    /// A median of at most this many times a peer's.
    AtMostTimes(f64, Subject),
    /// A median of at most this many times the sum of two others'.
    AtMostTimesBoth(f64, [Subject; 2]),
    /// A median above a peer's.
    Above(Subject),
}

/// One number that a measurement yields.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// For machines: lower case with dashes.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// The unit, as "ms".
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// What Koya is to reach.
    pub goal: Option<Goal>,
}

/// What every sample gets.
#[derive(Debug)]
pub struct Context {
    /// The folder with the tiny guests.
    pub guests: PathBuf,
    /// A folder of this run's own, for sockets, configurations and logs.
    pub scratch: PathBuf,
    /// The kind of host.
    pub kvm: KvmKind,
    /// How long to wait for whatever a sample waits for.
    pub limit: Duration,
}

/// A measurement.
pub trait Measurement {
    /// The numbers that one sample yields, in their order.
    fn figures(&self) -> &[Figure];

    /// How often to measure when the user asks for `runs`.
    fn rounds(&self, runs: usize) -> usize {
        runs
    }

    /// Whether a first sample, which does not count, has to fill the host's caches.
    fn needs_warming(&self) -> bool {
        true
    }

    /// Whether it can be asked of this VMM at all.
    fn applies_to(&self, kind: Kind) -> bool {
        kind != Kind::Floor
    }

    /// Takes one sample: a number for each figure.
    ///
    /// # Errors
    /// When the VMM fails, or does not do in time what is waited for.
    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError>;
}

/// The measurements with tiny guests, on any `/dev/kvm`.
#[must_use]
pub fn local() -> Vec<Box<dyn Measurement>> {
    vec![
        Box::new(first_byte::FirstByte),
        Box::new(fork::Fork),
        Box::new(exit::Exit),
        Box::new(memory::PeakMemory),
        Box::new(binary_size::BinarySize),
        Box::new(api_ready::ApiReady),
        Box::new(doorbell::Doorbell),
        Box::new(ports::Ports),
        Box::new(touch::Touch),
    ]
}

impl Context {
    /// The path of a tiny guest.
    #[must_use]
    pub fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(name)
    }

    /// Where a VMM's error output goes.
    #[must_use]
    pub fn errors(&self) -> PathBuf {
        self.scratch.join("stderr")
    }

    /// Starts a VMM with a machine.
    ///
    /// # Errors
    /// When its configuration cannot be written, or the program cannot be run.
    pub fn start(&self, vmm: &Vmm, machine: &Machine) -> Result<Process, BenchError> {
        let arguments = vmm.kind.arguments(machine, self.kvm, &self.scratch)?;
        Process::spawn(&vmm.command(arguments), &self.errors())
    }

    /// Runs a tiny guest that does something many times between the lines `<what>: begin` and
    /// `<what>: end COUNT`; returns the count and the seconds in between.
    ///
    /// # Errors
    /// When the guest does not get there in time.
    pub fn span(&self, process: &mut Process, what: &str) -> Result<(f64, f64), BenchError> {
        let begin = process.line(&format!("{what}: begin"), self.limit)?;
        let (count, end) = process.rest_of_line(&format!("{what}: end"), self.limit)?;
        let count = count.parse().map_err(|_| BenchError::Output {
            expected: "a count",
            found: count,
        })?;
        Ok((count, end.saturating_duration_since(begin).as_secs_f64()))
    }
}

/// The milliseconds from the start of a process to `when`.
pub(super) fn milliseconds(process: &Process, when: std::time::Instant) -> f64 {
    when.saturating_duration_since(process.started()).as_secs_f64() * 1e3
}

/// The size of a file, in bytes.
fn size_of(path: &Path) -> Result<u64, BenchError> {
    Ok(std::fs::metadata(path)
        .map_err(BenchError::path("read", path))?
        .len())
}
