//! The suite `containers`: what `koya run` and the agent take, against a bare microVM, crun and runc.
//!
//! ```text
//!  run      koya run --rm IMAGE true        against   koya-vmm, same kernel, an init that powers off
//!  guest    one microVM with crun, runc and koya-agent as a program:   inside, which runs in it
//!  house    one microVM of koya run: exec from the host, crun in it, memory, throughput, timeline
//! ```

use super::BenchError;
use super::measure::Context;
use super::options::Options;
use super::process::command;
use super::sheet::{Sheet, say};
use super::subject::{Column, Subject};
use super::suite::Row;
use super::timeline::Timeline;
use super::tree;

mod figures;
mod guest;
mod house;
pub mod inside;
mod parts;
mod phases;
mod run;
mod runtimes;
mod throughput;

use figures::FIGURES;
use parts::Parts;

/// What the suite yields.
pub(super) type Outcome = (Vec<Column>, Vec<Row>, Vec<Timeline>);

/// Measures everything.
///
/// # Errors
/// When something that every sample needs is missing. What fails by itself is in the rows instead.
pub(super) fn run(options: &Options, context: &Context) -> Result<Outcome, BenchError> {
    let parts = Parts::prepare(options, &context.scratch)?;
    let columns = parts.columns()?;
    let mut sheet = Sheet::new(&FIGURES, columns.iter().map(|column| column.subject).collect());
    let mut timelines = Vec::new();
    if options.wants(&run::MEASURES) {
        say("koya run and bare microVMs take turns");
        run::measure(&parts, context, options.runs, &mut sheet);
    }
    if options.wants(&guest::MEASURES) {
        say("a guest with crun, runc and the agent");
        guest::measure(&parts, context, options.runs, &mut sheet);
    }
    if options.wants(&house::MEASURES) {
        say("a container that stays");
        house::measure(&parts, context, options, &mut sheet);
    }
    if options.wants(&["timeline"]) {
        say("the timelines of a start");
        timelines.extend(phases::measure(&parts, context, options.runs));
    }
    sheet.rows.retain(Row::was_asked);
    Ok((columns, sheet.rows, timelines))
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
}
