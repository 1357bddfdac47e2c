//! The results for people: aligned columns on a terminal, Markdown in a file. A Markdown table is readable
//! as it stands when its columns are aligned, so both are the same text.

use super::{goal_text, is_met, number};
use crate::bench::suite::{Results, Row, Series};
use crate::bench::timeline::Timeline;

/// The host, the table, the VMMs' versions and what failed.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = format!("# Benchmark: {}\n\n", results.suite.name());
    text.push_str(&format!(
        "Host: {}.\nGuest: {}.\n",
        results.host.line(),
        results.guest
    ));
    text.push_str(
        "Medians, with the 10th to 90th percentile; those compared took turns, sample by sample.\n\n",
    );
    text.push_str(&align(&cells(results)));
    text.push('\n');
    for column in &results.columns {
        text.push_str(&format!("- {}: {}\n", column.subject.label(), column.version));
    }
    text.push_str(&failures(results));
    text.extend(results.timelines.iter().map(phases));
    text
}

/// The phases of a start, if they were looked at.
fn phases(timeline: &Timeline) -> String {
    let phases = timeline.phases();
    let Some(whole) = phases.last().map(|phase| phase.end.median) else {
        return String::new();
    };
    let head = ["", "took, ms", "share", "ended at, ms"]
        .map(str::to_owned)
        .to_vec();
    let body = phases.iter().map(|phase| {
        let took = phase.end.median - phase.begin;
        let (median, low, high) = (phase.end.median, phase.end.p10, phase.end.p90);
        vec![
            phase.name.clone(),
            number(took),
            format!("{:.0} %", took / whole * 100.0),
            format!("{} ({} – {})", number(median), number(low), number(high)),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    format!("\n## {}\n\n{}", timeline.title, align(&rows))
}

/// What failed and why; a reason that several figures share is told once.
fn failures(results: &Results) -> String {
    let mut text = String::new();
    for row in &results.rows {
        for series in row.series.iter().filter(|series| series.failed > 0) {
            let reason = series.error.as_deref().unwrap_or("unknown");
            if !text.contains(reason) {
                let (title, label) = (row.figure.title, series.subject.label());
                text.push_str(&format!(
                    "- {title}, {label}: {} failed: {reason}\n",
                    series.failed
                ));
            }
        }
    }
    text
}

fn cells(results: &Results) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    head.extend(
        results
            .columns
            .iter()
            .map(|column| column.subject.label().to_owned()),
    );
    head.extend(["goal", ""].map(str::to_owned));
    let body = results.rows.iter().map(|row| {
        let mut cells = vec![format!("{}, {}", row.figure.title, row.figure.unit)];
        cells.extend(row.series.iter().map(cell));
        cells.extend([goal_text(row), verdict(row).to_owned()]);
        cells
    });
    std::iter::once(head).chain(body).collect()
}

fn cell(series: &Series) -> String {
    match series.summary() {
        None if !series.applies => "–".to_owned(),
        None => "failed".to_owned(),
        Some(summary) if summary.count == 1 => number(summary.median),
        Some(summary) => {
            format!(
                "{} ({} – {})",
                number(summary.median),
                number(summary.p10),
                number(summary.p90)
            )
        }
    }
}

fn verdict(row: &Row) -> &'static str {
    match is_met(row) {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    }
}

/// Markdown with padded cells; the first column to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padded = if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            };
            text.push_str(&format!("| {padded} "));
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width);
                text.push_str(&if column == 0 {
                    format!("|{dashes}--")
                } else {
                    format!("|{dashes}-:")
                });
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample_results;

    #[test]
    fn the_table_tells_medians_spread_goals_and_failures() {
        let text = markdown(&sample_results());
        for part in [
            "page-table KVM",
            "0.6 (0.52 – 0.68)",
            "≤ 0.8 ms |",
            " met |",
            "missed |",
            " failed |",
            " – |",
            "Cloud Hypervisor: 3 failed: no \"first byte\" within 10 s",
        ] {
            assert!(text.contains(part), "no '{part}' in\n{text}");
        }
    }

    #[test]
    fn all_lines_of_the_table_are_equally_long() {
        let text = align(&cells(&sample_results()));
        let lengths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{text}");
    }
}
