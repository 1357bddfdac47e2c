//! Where the samples of a suite are collected whose subjects are not all VMMs.

use super::BenchError;
use super::measure::Figure;
use super::subject::Subject;
use super::suite::{Row, Series};

/// See the module.
#[derive(Debug)]
pub struct Sheet {
    subjects: Vec<Subject>,
    /// A row for each figure.
    pub rows: Vec<Row>,
}

/// The next step, for whoever waits.
pub(super) fn say(step: &str) {
    eprintln!("koya-bench: {step}");
}

impl Sheet {
    /// An empty one: the figures with those who are asked for each, and all columns.
    #[must_use]
    pub fn new(figures: &[(Figure, &[Subject])], subjects: Vec<Subject>) -> Self {
        let row = |(figure, asked): &(Figure, &[Subject])| Row {
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
        let rows = figures.iter().map(row).collect();
        Self { subjects, rows }
    }

    /// Notes a sample, or why there is none.
    pub fn note(&mut self, figure: &str, subject: Subject, sample: Result<f64, &BenchError>) {
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

    /// The same for a sample of a round that may only warm caches; a failure is told at once, and always counts.
    pub fn take(&mut self, figure: &str, subject: Subject, sample: Result<f64, &BenchError>, counts: bool) {
        if let Err(error) = sample {
            say(&format!("{figure}, {}: {}", subject.label(), error.in_full()));
        }
        if counts || sample.is_err() {
            self.note(figure, subject, sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Better;

    const FIGURE: Figure = Figure {
        name: "exec",
        title: "exec",
        unit: "ms",
        better: Better::Lower,
        goal: None,
    };

    #[test]
    fn samples_are_found_under_their_figure_and_failures_have_a_reason() {
        let asked: &[Subject] = &[Subject::KOYA, Subject::Crun];
        let columns = vec![Subject::KOYA, Subject::BareVmm, Subject::Crun];
        let mut sheet = Sheet::new(&[(FIGURE, asked)], columns);
        sheet.note("exec", Subject::Crun, Ok(3.0));
        sheet.take("exec", Subject::Crun, Ok(5.0), false);
        sheet.take(
            "exec",
            Subject::KOYA,
            Err(&BenchError::Usage("broken".into())),
            false,
        );
        let [koya, bare, crun] = &sheet.rows[0].series[..] else {
            panic!("three columns");
        };
        assert_eq!(crun.samples, [3.0]);
        assert_eq!((koya.failed, koya.error.as_deref()), (1, Some("broken")));
        assert!(!bare.applies && crun.applies);
    }
}
