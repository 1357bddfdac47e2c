//! The phases of a start as a picture: bars one below the other, each beginning where the last one ended.

use super::number;
use super::svg::{MARGIN, STYLE, WIDTH, heading, shape, text};
use crate::bench::suite::Results;
use crate::bench::timeline::Timeline;

const HEAD: f64 = 116.0;
const FOOT: f64 = 60.0;
const STEP: f64 = 46.0;
const BAR: f64 = 18.0;
/// Room for the numbers behind the bars.
const NUMBERS: f64 = 90.0;
const COLOURS: [&str; 4] = ["#2f6f4f", "#7c93c3", "#9aa5b1", "#e0a458"];

/// The chart as an SVG document.
#[must_use]
pub fn chart(results: &Results, timeline: &Timeline) -> String {
    let phases = timeline.phases();
    let whole = phases
        .last()
        .map_or(1.0, |phase| phase.end.median.max(f64::MIN_POSITIVE));
    let height = HEAD + phases.len() as f64 * STEP + FOOT;
    let per_millisecond = (WIDTH - 2.0 * MARGIN - NUMBERS) / whole;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f5f7fa\"/>\n"
    );
    heading(&mut svg, results, timeline.title);
    for (index, (phase, colour)) in phases.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let y = HEAD + index as f64 * STEP;
        let left = MARGIN + phase.begin * per_millisecond;
        let took = phase.end.median - phase.begin;
        // A bar that is not zero is at least visible.
        let length = (took * per_millisecond).max(1.5);
        let place = y + BAR;
        // A name that begins far to the right would not fit; it then ends where its bar does.
        let (at, anchor) = if phase.begin > whole / 2.0 {
            (left + length, "end")
        } else {
            (left, "start")
        };
        text(&mut svg, at, y + 12.0, "name", anchor, &phase.name);
        shape(
            &mut svg,
            format_args!(
                "<rect x=\"{left:.1}\" y=\"{place}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
            ),
        );
        let words = format!("{} ms", number(took));
        text(
            &mut svg,
            left + length + 8.0,
            place + 13.0,
            "value",
            "start",
            &words,
        );
    }
    let note = format!(
        "{} ms in all. Medians; each bar begins where the last one ended.",
        number(whole)
    );
    text(&mut svg, MARGIN, height - 20.0, "note", "start", &note);
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample_results;

    #[test]
    fn every_phase_has_a_bar_that_begins_where_the_last_ended() {
        let mut timeline = Timeline::new("timeline", "A start", &["first", "second"]);
        timeline.note(&[40.0, 100.0]);
        let svg = chart(&sample_results(), &timeline);
        assert_eq!(svg.matches(" ms</text>").count(), 2);
        let width = WIDTH - 2.0 * MARGIN - NUMBERS;
        let begin = MARGIN + 0.4 * width;
        assert!(svg.contains(&format!("<rect x=\"{begin:.1}\"")), "{svg}");
        assert!(svg.contains(">60 ms<") && svg.contains("100 ms in all"), "{svg}");
    }
}
