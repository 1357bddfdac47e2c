//! The suite `containers`: what `koya run` and the agent take, against a bare microVM, crun and runc.
//!
//! ```text
//!  run      koya run --rm IMAGE true        against   koya-vmm, same kernel, an init that powers off
//!  guest    one microVM with crun, runc and koya-agent as a program:   inside, which runs in it
//!  house    one microVM of koya run: exec from the host, crun in it, memory, throughput, timeline
//! ```

use std::ffi::OsString;
use std::path::Path;

use super::BenchError;
use super::measure::Context;
use super::options::Options;
use super::subject::{Column, Subject};
use super::suite::{Row, Series};
use super::timeline::Timeline;

mod figures;
mod guest;
mod house;
pub mod inside;
mod memory;
mod parts;
mod phases;
mod run;
mod runtimes;
mod throughput;
mod tree;

use figures::FIGURES;
use parts::Parts;

/// What the suite yields.
pub(super) type Outcome = (Vec<Column>, Vec<Row>, Timeline);

/// Where samples are collected.
struct Sheet {
    subjects: Vec<Subject>,
    rows: Vec<Row>,
}

/// Measures everything.
///
/// # Errors
/// When something that every sample needs is missing. What fails by itself is in the rows instead.
pub(super) fn run(options: &Options, context: &Context) -> Result<Outcome, BenchError> {
    let parts = Parts::prepare(options, &context.scratch)?;
    let columns = parts.columns()?;
    let mut sheet = Sheet::new(columns.iter().map(|column| column.subject).collect());
    let mut timeline = Timeline::default();
    let wanted = |figures: &[&str]| {
        options.only.is_empty() || options.only.iter().any(|name| figures.contains(&name.as_str()))
    };
    if wanted(&run::MEASURES) {
        say("koya run and bare microVMs take turns");
        run::measure(&parts, context, options.runs, &mut sheet);
    }
    if wanted(&guest::MEASURES) {
        say("a guest with crun, runc and the agent");
        guest::measure(&parts, context, options.runs, &mut sheet);
    }
    if wanted(&house::MEASURES) {
        say("a container that stays");
        house::measure(&parts, context, options, &mut sheet);
    }
    if wanted(&["timeline"]) {
        say("the timeline of a start");
        phases::measure(&parts, context, options.runs, &mut timeline);
    }
    sheet.rows.retain(Row::was_asked);
    Ok((columns, sheet.rows, timeline))
}

/// The next step, for whoever waits.
fn say(step: &str) {
    eprintln!("koya-bench: {step}");
}

impl Sheet {
    fn new(subjects: Vec<Subject>) -> Self {
        let row = |(figure, asked): &(super::measure::Figure, &[Subject])| Row {
            figure: *figure,
            series: subjects
                .iter()
                .map(|&subject| Series {
                    subject,
                    samples: Vec::new(),
                    failed: 0,
                    error: None,
                    applies: asked.contains(&subject),
                })
                .collect(),
        };
        let rows = FIGURES.iter().map(row).collect();
        Self { subjects, rows }
    }

    /// Notes a sample, or why there is none.
    fn note(&mut self, figure: &str, subject: Subject, sample: Result<f64, &BenchError>) {
        let place = self.subjects.iter().position(|other| *other == subject);
        let row = self.rows.iter_mut().find(|row| row.figure.name == figure);
        let series = row.zip(place).and_then(|(row, place)| row.series.get_mut(place));
        let Some(series) = series else {
            return;
        };
        match sample {
            Ok(value) => series.samples.push(value),
            Err(error) => {
                series.failed = series.failed.saturating_add(1);
                series.error = Some(error.in_full());
            }
        }
    }
}

/// A command line of words.
fn command<'a>(program: &Path, words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    let words = words.into_iter().map(OsString::from);
    std::iter::once(program.into()).chain(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_measured_somewhere() {
        let measured = [&run::MEASURES[..], &guest::MEASURES, &house::MEASURES].concat();
        for (figure, _) in &FIGURES {
            assert!(measured.contains(&figure.name), "{}", figure.name);
        }
        assert_eq!(measured.len(), FIGURES.len());
    }

    #[test]
    fn samples_are_found_under_their_figure_and_failures_have_a_reason() {
        let mut sheet = Sheet::new(vec![
            Subject::KOYA,
            Subject::BareVmm,
            Subject::Crun,
            Subject::Runc,
        ]);
        sheet.note("exec", Subject::Crun, Ok(3.0));
        sheet.note("exec", Subject::KOYA, Err(&BenchError::Usage("broken".into())));
        let row = sheet.rows.iter().find(|row| row.figure.name == "exec").unwrap();
        assert_eq!(row.series[2].samples, [3.0]);
        assert_eq!(
            (row.series[0].failed, row.series[0].error.as_deref()),
            (1, Some("broken"))
        );
        assert!(!row.series[1].applies && row.series[3].applies);
    }
}
