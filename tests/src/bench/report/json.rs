//! The results for programs.

use serde_json::{Value, json};

use super::{bound, is_met};
use crate::bench::measure::Better;
use crate::bench::suite::{Results, Row, Series};
use crate::bench::timeline::{Phase, Timeline};

/// The whole run as indented JSON, every sample included.
#[must_use]
pub fn document(results: &Results) -> String {
    let host = &results.host;
    let programs: Vec<Value> = results
        .columns
        .iter()
        .map(|column| json!({ "name": column.subject.label(), "version": column.version }))
        .collect();
    let document = json!({
        "suite": results.suite.name(),
        "guest": results.guest,
        "host": {
            "kvm": host.kvm.name(),
            "cpu": host.cpu,
            "cpus": host.cpus,
            "kernel": host.kernel,
            "memory_mib": host.memory_mib,
            "load": host.load,
        },
        "programs": programs,
        "timelines": results.timelines.iter().map(timeline).collect::<Vec<_>>(),
        "figures": results.rows.iter().map(figure).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn timeline(timeline: &Timeline) -> Value {
    json!({
        "name": timeline.name,
        "title": timeline.title,
        "phases": timeline.phases().iter().map(phase).collect::<Vec<_>>(),
    })
}

/// A phase of a start, in milliseconds since its begin.
fn phase(phase: &Phase) -> Value {
    json!({
        "name": phase.name,
        "begin": phase.begin,
        "end": phase.end.median,
        "end_p10": phase.end.p10,
        "end_p90": phase.end.p90,
    })
}

fn figure(row: &Row) -> Value {
    json!({
        "name": row.figure.name,
        "title": row.figure.title,
        "unit": row.figure.unit,
        "better": match row.figure.better {
            Better::Lower => "lower",
            Better::Higher => "higher",
        },
        "goal": bound(row),
        "met": is_met(row),
        "results": row.series.iter().filter(|series| series.applies).map(result).collect::<Vec<_>>(),
    })
}

fn result(series: &Series) -> Value {
    let summary = series.summary();
    let part = |take: fn(&crate::bench::stats::Summary) -> f64| summary.as_ref().map(take);
    json!({
        "program": series.subject.label(),
        "median": part(|summary| summary.median),
        "p10": part(|summary| summary.p10),
        "p90": part(|summary| summary.p90),
        "min": part(|summary| summary.min),
        "max": part(|summary| summary.max),
        "samples": series.samples,
        "failed": series.failed,
        "error": series.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample_results;

    #[test]
    fn says_what_was_measured_where_and_what_failed() {
        let document: Value = serde_json::from_str(&document(&sample_results())).unwrap();
        assert_eq!(document["host"]["kvm"], "page-table");
        let first = &document["figures"][0];
        assert_eq!(first["results"][0]["median"], 0.6);
        assert_eq!(
            (first["goal"].as_f64(), first["met"].as_bool()),
            (Some(0.8), Some(true))
        );
        assert_eq!(first["results"][2]["failed"], 3);
        assert_eq!(document["figures"][1]["results"].as_array().unwrap().len(), 2);
    }
}
