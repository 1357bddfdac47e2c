//! The figures of the suite, and who is asked for each.

use crate::bench::measure::{Better, Figure, Goal};
use crate::bench::subject::Subject;

const RUN: &[Subject] = &[Subject::KOYA, Subject::BareVmm];
const RUNTIMES: &[Subject] = &[Subject::KOYA, Subject::Crun, Subject::Runc];
const ALONE: &[Subject] = &[Subject::KOYA];

/// How much longer a start may take than that of the bare microVM.
const START: Option<Goal> = Some(Goal::AtMostTimes(1.3, Subject::BareVmm));
/// How much longer another process in a container may take than with crun.
const EXEC: Option<Goal> = Some(Goal::AtMostTimes(1.5, Subject::Crun));

/// Every figure, in the order of the table.
pub(super) const FIGURES: [(Figure, &[Subject]); 16] = [
    (
        time("run-exit", "koya run --rm IMAGE true, spawn → exit", START),
        RUN,
    ),
    (time("run-exit-alone", "the same with --network none", START), RUN),
    (
        time("run-output", "spawn → first line, with --network none", START),
        RUN,
    ),
    (
        time("exec-host", "koya exec of true, from the host", EXEC),
        &[Subject::KOYA, Subject::Crun],
    ),
    (time("exec", "exec of true, in the guest", EXEC), RUNTIMES),
    (time("create", "Create", None), RUNTIMES),
    (time("start", "Start", None), RUNTIMES),
    (time("delete", "Delete", None), RUNTIMES),
    (
        time(
            "life",
            "Create → start → end → delete",
            Some(Goal::AtMostTimes(1.0, Subject::Crun)),
        ),
        RUNTIMES,
    ),
    (
        size(
            "host-memory",
            "Host memory of an idle instance",
            "MiB",
            Some(Goal::AtMost(10.0)),
        ),
        ALONE,
    ),
    (
        size(
            "vmm-memory",
            "of it the VMM, without the guest's memory",
            "MiB",
            None,
        ),
        ALONE,
    ),
    (size("monitor-memory", "of it the monitor", "MiB", None), ALONE),
    (
        size(
            "agent-memory",
            "Agent with one idle container, resident",
            "MB",
            Some(Goal::AtMost(6.0)),
        ),
        ALONE,
    ),
    (rate("exec-output", "koya exec, guest → host"), ALONE),
    (rate("exec-input", "koya exec -i, host → guest"), ALONE),
    (
        rate("run-through", "koya run -i IMAGE cat, there and back"),
        ALONE,
    ),
];

const fn time(name: &'static str, title: &'static str, goal: Option<Goal>) -> Figure {
    size(name, title, "ms", goal)
}

const fn size(name: &'static str, title: &'static str, unit: &'static str, goal: Option<Goal>) -> Figure {
    Figure {
        name,
        title,
        unit,
        better: Better::Lower,
        goal,
    }
}

const fn rate(name: &'static str, title: &'static str) -> Figure {
    Figure {
        name,
        title,
        unit: "MB/s",
        better: Better::Higher,
        goal: None,
    }
}
