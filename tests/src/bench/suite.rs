//! Runs the measurements, interleaved, and collects their samples.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::BenchError;
use super::containers;
use super::engines;
use super::floor;
use super::guests;
use super::host::{Host, KvmKind};
use super::linux::{Linux, Scratch, Tap};
use super::measure::{self, Context, Figure, Measurement};
use super::options::{Options, SuiteKind};
use super::stats::Summary;
use super::subject::{Column, Subject};
use super::timeline::Timeline;
use super::vmm::Vmm;

/// After so many failures in a row a VMM is not asked again for that measurement.
const MAX_FAILURES: usize = 3;

/// From when on a sample is worth a line of progress.
const SLOW: Duration = Duration::from_secs(3);

/// The samples of one figure from one VMM or program.
#[derive(Clone, Debug)]
pub struct Series {
    /// Whose.
    pub subject: Subject,
    /// One number for each sample that succeeded.
    pub samples: Vec<f64>,
    /// Samples that failed.
    pub failed: usize,
    /// Why the last of them did.
    pub error: Option<String>,
    /// Whether the figure can be asked of this one.
    pub applies: bool,
}

impl Series {
    /// Medians and spread.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.samples)
    }
}

/// A figure and what each of them reached.
#[derive(Clone, Debug)]
pub struct Row {
    /// The figure.
    pub figure: Figure,
    /// In the order of the columns.
    pub series: Vec<Series>,
}

impl Row {
    /// Whether anybody was asked for it at all, with success or without.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.series
            .iter()
            .any(|series| series.failed > 0 || !series.samples.is_empty())
    }
}

/// A whole run.
#[derive(Debug)]
pub struct Results {
    /// Which set of measurements.
    pub suite: SuiteKind,
    /// Where it ran.
    pub host: Host,
    /// Who was measured, in the order of all columns.
    pub columns: Vec<Column>,
    /// The figures.
    pub rows: Vec<Row>,
    /// The shape of the guest, in words.
    pub guest: String,
    /// The phases of starts, where they were looked at.
    pub timelines: Vec<Timeline>,
}

/// Runs what the options ask for.
///
/// # Errors
/// When something that every sample needs is missing. A VMM that fails is in the results instead.
pub fn run(options: &Options) -> Result<Results, BenchError> {
    let host = Host::look();
    if host.kvm == KvmKind::None {
        let remedy = "this suite needs a KVM host (tests/host/kvm-host run -- …)";
        return Err(BenchError::Missing {
            what: "/dev/kvm".into(),
            remedy,
        });
    }
    let vmms = options.vmms()?;
    let scratch = Scratch::new()?;
    let context = Context {
        guests: scratch.path().join("guests"),
        scratch: scratch.path().to_path_buf(),
        kvm: host.kvm,
        limit: options.limit,
    };
    let (vcpus, memory) = (options.vcpus, options.memory_mib);
    let results = |rows, guest| Results {
        suite: options.suite,
        host: host.clone(),
        columns: vmms.iter().map(Column::from).collect(),
        rows,
        guest,
        timelines: Vec::new(),
    };
    match options.suite {
        SuiteKind::Local => {
            guests::build(&context.guests)?;
            let floor = floor::build(scratch.path())?;
            let all: Vec<Vmm> = vmms.iter().cloned().chain([floor]).collect();
            let rows = interleave(select(measure::local(), options), &all, &context, options.runs);
            Ok(Results {
                columns: all.iter().map(Column::from).collect(),
                ..results(rows, "tiny guests, 1 vCPU, 128 MiB".into())
            })
        }
        SuiteKind::Guest => {
            let tap = Tap::new()?;
            let linux = Linux::prepare(options, &tap, scratch.path())?;
            let rows = interleave(
                select(linux_measurements(&linux), options),
                &vmms,
                &context,
                options.runs,
            );
            Ok(results(
                rows,
                format!("Linux, {vcpus} vCPU, {memory} MiB, disks in memory, tap without vhost"),
            ))
        }
        SuiteKind::Containers => {
            let (columns, rows, timelines) = containers::run(options, &context)?;
            let guest = format!("Linux, {vcpus} vCPU, {memory} MiB; everything on the host in memory");
            Ok(Results {
                columns,
                timelines,
                ..results(rows, guest)
            })
        }
        SuiteKind::Engines => {
            let (columns, rows, timelines) = engines::run(options, &context)?;
            let guest = engines::described(options)?;
            Ok(Results {
                columns,
                timelines,
                ..results(rows, guest)
            })
        }
    }
}

fn linux_measurements(linux: &Linux) -> Vec<Box<dyn Measurement>> {
    vec![
        Box::new(measure::boot::Boot(linux.clone())),
        Box::new(measure::disk::Disk(linux.clone())),
        Box::new(measure::network::Network(linux.clone())),
    ]
}

/// The measurements that have a figure the user names, or all.
fn select(mut all: Vec<Box<dyn Measurement>>, options: &Options) -> Vec<Box<dyn Measurement>> {
    let named = |figure: &Figure| options.only.iter().any(|name| name == figure.name);
    if !options.only.is_empty() {
        all.retain(|measurement| measurement.figures().iter().any(named));
    }
    all
}

/// A measurement's samples so far, a row for each of its figures.
struct Collected {
    measurement: Box<dyn Measurement>,
    rows: Vec<Row>,
    /// Failures in a row, for each VMM.
    failures: Vec<usize>,
}

/// Asks each VMM for one sample of each measurement, and again, `runs` times. A first round only warms the
/// caches.
fn interleave(
    measurements: Vec<Box<dyn Measurement>>,
    vmms: &[Vmm],
    context: &Context,
    runs: usize,
) -> Vec<Row> {
    let mut collected: Vec<Collected> = measurements
        .into_iter()
        .map(|measurement| Collected::new(measurement, vmms))
        .collect();
    for round in 0..=runs {
        progress(round, runs);
        for one in &mut collected {
            let warming = round == 0;
            if round <= one.measurement.rounds(runs) && (!warming || one.measurement.needs_warming()) {
                one.take_samples(vmms, context, warming);
            }
        }
    }
    collected.into_iter().flat_map(|one| one.rows).collect()
}

impl Collected {
    fn new(measurement: Box<dyn Measurement>, vmms: &[Vmm]) -> Self {
        let series = |vmm: &Vmm| Series {
            subject: Subject::Vmm(vmm.kind),
            samples: Vec::new(),
            failed: 0,
            error: None,
            applies: measurement.applies_to(vmm.kind),
        };
        let row = |figure: &Figure| Row {
            figure: *figure,
            series: vmms.iter().map(series).collect(),
        };
        let rows = measurement.figures().iter().map(row).collect();
        Self {
            measurement,
            rows,
            failures: vec![0; vmms.len()],
        }
    }

    fn take_samples(&mut self, vmms: &[Vmm], context: &Context, warming: bool) {
        for (index, vmm) in vmms.iter().enumerate() {
            let Some(failures) = self.failures.get_mut(index) else {
                continue;
            };
            if *failures >= MAX_FAILURES || !self.measurement.applies_to(vmm.kind) {
                continue;
            }
            let began = Instant::now();
            let sample = self.measurement.sample(vmm, context);
            report_slow(self.measurement.as_ref(), vmm, began.elapsed());
            *failures = if sample.is_ok() {
                0
            } else {
                failures.saturating_add(1)
            };
            if warming && sample.is_ok() {
                continue;
            }
            for (place, row) in self.rows.iter_mut().enumerate() {
                let Some(series) = row.series.get_mut(index) else {
                    continue;
                };
                match &sample {
                    Ok(values) => series.samples.extend(values.get(place)),
                    Err(error) => {
                        series.failed = series.failed.saturating_add(1);
                        series.error = Some(error.in_full());
                    }
                }
            }
        }
    }
}

/// A line for a sample that took so long that somebody may wonder.
fn report_slow(measurement: &dyn Measurement, vmm: &Vmm, took: Duration) {
    if took >= SLOW {
        let title = measurement.figures().first().map_or("", |figure| figure.title);
        eprintln!(
            "{title}, {}: a sample in {:.0} s",
            vmm.kind.label(),
            took.as_secs_f64()
        );
    }
}

/// A line on a terminal that counts; nothing in a log.
fn progress(round: usize, runs: usize) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let end = if round == runs { "\n" } else { "" };
        // A terminal that went away is no reason to stop measuring.
        let _ = write!(stderr, "\rround {round} of {runs}{end}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Better;
    use crate::bench::vmm::Kind;
    use std::cell::RefCell;
    use std::path::PathBuf;
    use std::rc::Rc;

    struct Recorder {
        order: Rc<RefCell<Vec<Kind>>>,
        rounds: usize,
    }

    const FIGURES: [Figure; 1] = [Figure {
        name: "x",
        title: "X",
        unit: "ms",
        better: Better::Lower,
        goal: None,
    }];

    impl Measurement for Recorder {
        fn figures(&self) -> &[Figure] {
            &FIGURES
        }

        fn rounds(&self, runs: usize) -> usize {
            runs.min(self.rounds)
        }

        fn sample(&self, vmm: &Vmm, _: &Context) -> Result<Vec<f64>, BenchError> {
            self.order.borrow_mut().push(vmm.kind);
            match vmm.kind {
                Kind::Firecracker => Err(BenchError::Usage("broken".into())),
                _ => Ok(vec![1.0]),
            }
        }
    }

    fn run_with(rounds: usize, kinds: &[Kind]) -> (Vec<Kind>, Vec<Row>) {
        let order = Rc::new(RefCell::new(Vec::new()));
        let recorder = Recorder {
            order: order.clone(),
            rounds,
        };
        let vmms: Vec<Vmm> = kinds
            .iter()
            .map(|kind| Vmm {
                kind: *kind,
                binary: PathBuf::new(),
                version: String::new(),
            })
            .collect();
        let limit = Duration::from_secs(1);
        let context = Context {
            guests: PathBuf::new(),
            scratch: PathBuf::new(),
            kvm: KvmKind::Hardware,
            limit,
        };
        let rows = interleave(vec![Box::new(recorder)], &vmms, &context, 5);
        let order = order.borrow().clone();
        (order, rows)
    }

    #[test]
    fn vmms_take_turns_and_the_first_round_does_not_count() {
        let (order, rows) = run_with(usize::MAX, &[Kind::Koya, Kind::Qemu]);
        assert_eq!(order.len(), 12);
        assert!(order.chunks(2).all(|pair| pair == [Kind::Koya, Kind::Qemu]));
        assert_eq!(rows[0].series[1].samples, [1.0; 5]);
    }

    #[test]
    fn a_measurement_may_want_fewer_rounds() {
        assert_eq!(run_with(2, &[Kind::Koya]).0.len(), 3);
        assert_eq!(run_with(1, &[Kind::Koya]).0.len(), 2);
    }

    #[test]
    fn a_vmm_that_keeps_failing_is_left_alone() {
        let (order, rows) = run_with(usize::MAX, &[Kind::Koya, Kind::Firecracker]);
        assert_eq!(
            order.iter().filter(|kind| **kind == Kind::Firecracker).count(),
            MAX_FAILURES
        );
        let series = &rows[0].series[1];
        assert_eq!((series.failed, series.error.as_deref()), (3, Some("broken")));
        assert_eq!(rows[0].series[0].samples.len(), 5);
    }
}
