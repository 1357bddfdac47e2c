//! The results as a picture: a panel for each figure, a bar for each VMM, whiskers for the spread and a
//! dashed line for the goal.

use std::fmt::Write;

use super::{bound, goal_text, is_met, number};
use crate::bench::measure::{Better, Goal};
use crate::bench::subject::Subject;
use crate::bench::suite::{Results, Row, Series};
use crate::bench::vmm::Kind;

pub(super) const WIDTH: f64 = 1080.0;
pub(super) const MARGIN: f64 = 36.0;
const GAP: f64 = 24.0;
const HEAD: f64 = 104.0;
const FOOT: f64 = 44.0;
const PANEL_HEAD: f64 = 58.0;
const BAR: f64 = 18.0;
const BAR_STEP: f64 = 30.0;
/// Room for the names of the VMMs, and for the numbers behind the bars.
const NAMES: f64 = 124.0;
const NUMBERS: f64 = 72.0;

pub(super) const STYLE: &str = "\
text { font-family: Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; fill: #1f2933; } \
.title { font-size: 22px; font-weight: 700; } \
.note { font-size: 12px; fill: #616e7c; } \
.figure { font-size: 14px; font-weight: 600; } \
.name { font-size: 12px; fill: #3e4c59; } \
.value { font-size: 12px; font-weight: 600; } \
.met { fill: #217a4b; font-weight: 600; } \
.missed { fill: #b44d12; font-weight: 600; }";

/// The chart as an SVG document.
#[must_use]
pub fn chart(results: &Results) -> String {
    let panel_width = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
    let panel_height = PANEL_HEAD + results.columns.len() as f64 * BAR_STEP + 10.0;
    let lines = results.rows.len().div_ceil(2) as f64;
    let height = HEAD + lines * (panel_height + GAP) - GAP + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f5f7fa\"/>\n"
    );
    head(&mut svg, results);
    for (index, row) in results.rows.iter().enumerate() {
        let x = if index % 2 == 0 {
            MARGIN
        } else {
            MARGIN + panel_width + GAP
        };
        let y = HEAD + (index / 2) as f64 * (panel_height + GAP);
        panel(&mut svg, row, x, y, panel_width, panel_height);
    }
    let foot = height - FOOT / 2.0 + 4.0;
    let note = "Bars: medians. Whiskers: 10th to 90th percentile. Dashed: Koya's goal. All in one run, those compared taking turns.";
    text(&mut svg, MARGIN, foot, "note", "start", note);
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, results: &Results) {
    let title = match results.suite.name() {
        "local" => "Koya and its peers: start-up, memory and exits",
        "engines" => "Engines with koya in the place of crun: starts, pods, files and network",
        "containers" => "Containers in microVMs: koya, and what it is compared with",
        _ => "Koya and its peers: boot, disk and network",
    };
    heading(svg, results, title);
}

/// A title, and under it the machine and the guest.
pub(super) fn heading(svg: &mut String, results: &Results, title: &str) {
    let host = &results.host;
    let machine = format!(
        "{} KVM: {} · {} × {} · Linux {}",
        host.kvm.name(),
        host.kvm.meaning(),
        host.cpus,
        host.cpu,
        host.kernel
    );
    text(svg, MARGIN, 44.0, "title", "start", title);
    text(svg, MARGIN, 66.0, "note", "start", &machine);
    text(svg, MARGIN, 84.0, "note", "start", &results.guest);
}

fn panel(svg: &mut String, row: &Row, x: f64, y: f64, width: f64, height: f64) {
    shape(
        svg,
        format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\" stroke=\"#dfe4ea\"/>"
        ),
    );
    text(svg, x + 16.0, y + 26.0, "figure", "start", row.figure.title);
    let better = match row.figure.better {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    };
    text(
        svg,
        x + 16.0,
        y + 43.0,
        "note",
        "start",
        &format!("{}, {better}", row.figure.unit),
    );
    if let Some(met) = is_met(row) {
        let (class, word) = if met { ("met", "met") } else { ("missed", "missed") };
        let words = format!("goal {} {word}", goal_text(row));
        text(
            svg,
            x + width - 16.0,
            y + 43.0,
            &format!("note {class}"),
            "end",
            &words,
        );
    }
    let scale = Scale::of(row, x + NAMES, width - NAMES - NUMBERS);
    for (index, series) in row.series.iter().enumerate() {
        bar(
            svg,
            series,
            &scale,
            x + NAMES - 10.0,
            y + PANEL_HEAD + index as f64 * BAR_STEP,
        );
    }
    // A line at a peer's own median would say nothing that its bar does not.
    if let (Some(at), Some(Goal::AtMost(_) | Goal::AtMostTimes(..) | Goal::AtMostTimesBoth(..))) =
        (bound(row), row.figure.goal)
    {
        let (line, top, end) = (scale.x(at), y + PANEL_HEAD - 4.0, y + height - 12.0);
        shape(
            svg,
            format_args!(
                "<line x1=\"{line:.1}\" y1=\"{top}\" x2=\"{line:.1}\" y2=\"{end}\" stroke=\"#b44d12\" stroke-dasharray=\"4 3\"/>"
            ),
        );
    }
}

/// From a value to a place: linear from zero, so that lengths compare as the values do.
struct Scale {
    left: f64,
    per_unit: f64,
}

impl Scale {
    fn of(row: &Row, left: f64, width: f64) -> Self {
        let ends = row
            .series
            .iter()
            .filter_map(|series| series.summary())
            .map(|summary| summary.p90);
        let largest = ends.chain(bound(row)).fold(0.0, f64::max);
        Self {
            left,
            per_unit: if largest > 0.0 { width / largest } else { 0.0 },
        }
    }

    fn x(&self, value: f64) -> f64 {
        self.left + value * self.per_unit
    }
}

fn bar(svg: &mut String, series: &Series, scale: &Scale, names: f64, y: f64) {
    let base = y + BAR - 5.0;
    text(svg, names, base, "name", "end", series.subject.label());
    let Some(summary) = series.summary() else {
        let words = if series.applies {
            "failed"
        } else {
            "does not apply"
        };
        return text(svg, scale.left + 8.0, base, "note", "start", words);
    };
    let (left, end, middle) = (scale.left, scale.x(summary.median), y + BAR / 2.0);
    // A bar that is not zero is at least visible.
    let length = (end - left).max(1.5);
    let colour = colour(series.subject);
    shape(
        svg,
        format_args!(
            "<rect x=\"{left:.1}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
        ),
    );
    let (low, high) = (scale.x(summary.p10), scale.x(summary.p90));
    if high - low > 2.0 {
        let (top, bottom) = (middle - 4.0, middle + 4.0);
        shape(
            svg,
            format_args!(
                "<path d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {top}V{bottom}M{high:.1} {top}V{bottom}\" stroke=\"#1f2933\" stroke-opacity=\"0.55\" fill=\"none\"/>"
            ),
        );
    }
    text(
        svg,
        high.max(end) + 8.0,
        base,
        "value",
        "start",
        &number(summary.median),
    );
}

fn colour(subject: Subject) -> &'static str {
    match subject {
        Subject::Vmm(Kind::Koya) => "#2f6f4f",
        Subject::Vmm(Kind::Qemu) | Subject::Runc => "#9aa5b1",
        Subject::Vmm(Kind::Firecracker) | Subject::Crun => "#e0a458",
        Subject::Vmm(Kind::CloudHypervisor) | Subject::BareVmm => "#7c93c3",
        Subject::Vmm(Kind::Floor) => "#c9c9c9",
    }
}

pub(super) fn shape(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(svg, "{element}");
}

pub(super) fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    shape(
        svg,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample_results;

    #[test]
    fn names_every_vmm_in_every_panel_and_escapes_text() {
        let svg = chart(&sample_results());
        assert_eq!(svg.matches(">Koya</text>").count(), 2);
        assert_eq!(svg.matches(">does not apply</text>").count(), 1);
        assert_eq!(svg.matches(">failed</text>").count(), 1);
        assert!(svg.contains("AMD &lt;EPYC&gt;"), "{svg}");
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let row = &sample_results().rows[0];
        let scale = Scale::of(row, 100.0, 200.0);
        let (ours, qemu) = (scale.x(0.6) - 100.0, scale.x(40.0) - 100.0);
        assert!((qemu / ours - 40.0 / 0.6).abs() < 1e-6);
        assert!(scale.x(44.0) <= 300.0);
    }
}
