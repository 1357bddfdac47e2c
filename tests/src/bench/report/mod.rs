//! What a run leaves behind: a table on the terminal, and `<suite>.md`, `.json` and `.svg` in a folder; and
//! `<suite>-<timeline>.svg` for each start whose phases were looked at.

use std::fs;
use std::path::Path;

use super::BenchError;
use super::measure::{Better, Goal};
use super::subject::Subject;
use super::suite::{Results, Row, Series};

pub mod json;
pub mod svg;
pub mod table;
pub mod timeline;

/// Writes the files; their names.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<Vec<String>, BenchError> {
    fs::create_dir_all(folder).map_err(BenchError::path("make", folder))?;
    let name = results.suite.name();
    let mut texts = vec![
        (format!("{name}.md"), table::markdown(results)),
        (format!("{name}.json"), json::document(results)),
        (format!("{name}.svg"), svg::chart(results)),
    ];
    for timeline in &results.timelines {
        if !timeline.phases().is_empty() {
            let file = format!("{name}-{}.svg", timeline.name);
            texts.push((file, timeline::chart(results, timeline)));
        }
    }
    for (name, text) in &texts {
        let path = folder.join(name);
        fs::write(&path, text).map_err(BenchError::path("write", &path))?;
    }
    Ok(texts.into_iter().map(|(name, _)| name).collect())
}

/// The number that Koya's median is compared with, and whether it may be equal.
fn bound(row: &Row) -> Option<f64> {
    let peer = |subject: Subject| median(row.series.iter().find(|series| series.subject == subject)?);
    match row.figure.goal? {
        Goal::AtMost(bound) => Some(bound),
        Goal::AtMostTimes(times, subject) => Some(peer(subject)? * times),
        Goal::AtMostTimesBoth(times, [one, other]) => Some((peer(one)? + peer(other)?) * times),
        Goal::Above(subject) => peer(subject),
    }
}

/// Whether Koya met the goal; `None` when there is no goal or nothing to compare.
#[must_use]
pub fn is_met(row: &Row) -> Option<bool> {
    let ours = median(row.series.iter().find(|series| series.subject == Subject::KOYA)?)?;
    let bound = bound(row)?;
    Some(match row.figure.better {
        Better::Lower => ours <= bound,
        Better::Higher => ours > bound,
    })
}

/// The goal in words, as "≤ 0.8 ms".
fn goal_text(row: &Row) -> String {
    match row.figure.goal {
        None => String::new(),
        Some(Goal::AtMost(bound)) => format!("≤ {} {}", number(bound), row.figure.unit),
        Some(Goal::AtMostTimes(times, subject)) => format!("≤ {} × {}", number(times), subject.label()),
        Some(Goal::AtMostTimesBoth(times, [one, other])) => {
            format!("≤ {} × ({} + {})", number(times), one.label(), other.label())
        }
        Some(Goal::Above(subject)) => format!("> {}", subject.label()),
    }
}

fn median(series: &Series) -> Option<f64> {
    series.summary().map(|summary| summary.median)
}

/// Three significant digits, without an exponent.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::host::{Host, KvmKind};
    use crate::bench::measure::Figure;
    use crate::bench::options::SuiteKind;
    use crate::bench::subject::Column;
    use crate::bench::vmm::Kind;

    fn series(kind: Kind, samples: &[f64]) -> Series {
        Series {
            subject: Subject::Vmm(kind),
            samples: samples.to_vec(),
            failed: 0,
            error: None,
            applies: true,
        }
    }

    /// A run with a figure in every state there is.
    pub fn sample_results() -> Results {
        let kinds = [Kind::Koya, Kind::Qemu, Kind::CloudHypervisor];
        let figure = |name, title, unit, better, goal| Figure {
            name,
            title,
            unit,
            better,
            goal,
        };
        let column = |kind: Kind| Column {
            subject: Subject::Vmm(kind),
            version: "1 <2>".into(),
        };
        let mut failing = series(Kind::CloudHypervisor, &[]);
        failing.failed = 3;
        failing.error = Some("no \"first byte\" within 10 s".into());
        let mut inapplicable = series(Kind::CloudHypervisor, &[]);
        inapplicable.applies = false;
        let rows = vec![
            Row {
                figure: figure("a", "Spawn → byte", "ms", Better::Lower, Some(Goal::AtMost(0.8))),
                series: vec![
                    series(Kind::Koya, &[0.5, 0.6, 0.7]),
                    series(Kind::Qemu, &[39.0, 40.0, 45.0]),
                    failing,
                ],
            },
            Row {
                figure: figure(
                    "b",
                    "Reads",
                    "thousand/s",
                    Better::Higher,
                    Some(Goal::Above(Subject::QEMU)),
                ),
                series: vec![
                    series(Kind::Koya, &[100.0]),
                    series(Kind::Qemu, &[120.0]),
                    inapplicable,
                ],
            },
        ];
        let host = Host {
            kvm: KvmKind::PageTable,
            cpu: "AMD <EPYC>".into(),
            cpus: 2,
            kernel: "6.18".into(),
            memory_mib: 1024,
            load: 0.1,
        };
        let guest = "tiny guests".into();
        Results {
            suite: SuiteKind::Local,
            host,
            columns: kinds.map(column).to_vec(),
            rows,
            guest,
            timelines: Vec::new(),
        }
    }

    #[test]
    fn goals_are_met_or_missed_by_the_median() {
        let results = sample_results();
        assert_eq!(is_met(&results.rows[0]), Some(true));
        assert_eq!(is_met(&results.rows[1]), Some(false));
        let mut slow = results.rows[0].clone();
        slow.series[0].samples = vec![0.1, 0.9, 0.9];
        assert_eq!(is_met(&slow), Some(false));
        slow.series[0].samples.clear();
        assert_eq!(is_met(&slow), None);
    }

    #[test]
    fn half_of_a_peer_is_half_of_its_median() {
        let mut row = sample_results().rows[0].clone();
        row.figure.goal = Some(Goal::AtMostTimes(0.5, Subject::QEMU));
        row.series[0].samples = vec![20.0];
        assert_eq!(is_met(&row), Some(true));
        row.series[0].samples = vec![20.1];
        assert_eq!(is_met(&row), Some(false));
    }

    #[test]
    fn what_two_need_one_after_the_other_is_the_sum_of_their_medians() {
        let mut row = sample_results().rows[0].clone();
        row.series[2].samples = vec![10.0];
        row.figure.goal = Some(Goal::AtMostTimesBoth(
            2.0,
            [Subject::QEMU, Subject::Vmm(Kind::CloudHypervisor)],
        ));
        row.series[0].samples = vec![100.0];
        assert_eq!(is_met(&row), Some(true));
        row.series[0].samples = vec![100.1];
        assert_eq!(is_met(&row), Some(false));
        assert_eq!(goal_text(&row), "≤ 2 × (QEMU microvm + Cloud Hypervisor)");
        row.series[2].samples.clear();
        assert_eq!(is_met(&row), None);
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.8, "0.8"),
            (39.94, "39.9"),
            (1078.4, "1078"),
            (0.0123, "0.012"),
            (2.0, "2"),
            (100.0, "100"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn writes_three_files() {
        let folder = std::env::temp_dir().join(format!("koya-report-{}", std::process::id()));
        write(&sample_results(), &folder).unwrap();
        for name in ["local.md", "local.json", "local.svg"] {
            assert!(fs::metadata(folder.join(name)).unwrap().len() > 100, "{name}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
