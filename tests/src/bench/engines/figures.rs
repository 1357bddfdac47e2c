//! The figures of the suite, and who is asked for each.

use crate::bench::measure::{Better, Figure, Goal};
use crate::bench::subject::Subject;

const STARTS: &[Subject] = &[Subject::KOYA, Subject::Crun, Subject::BareVmm];
const BOTH: &[Subject] = &[Subject::KOYA, Subject::Crun];
const ALONE: &[Subject] = &[Subject::KOYA];

/// How long a start may take.
const START: Option<Goal> = Some(Goal::AtMostTimesBoth(1.3, [Subject::BareVmm, Subject::Crun]));
/// How much longer another process in a container may take than with crun.
const EXEC: Option<Goal> = Some(Goal::AtMostTimes(2.0, Subject::Crun));
/// What a pod may take beside its guest and virtiofsd.
const MEMORY: Option<Goal> = Some(Goal::AtMost(10.0));

/// Every figure, in the order of the table.
pub(super) const FIGURES: [(Figure, &[Subject]); 28] = [
    (
        lower("podman-run", "podman run --rm of true", "ms", START),
        STARTS,
    ),
    (
        lower("podman-run-alone", "the same with --network none", "ms", START),
        STARTS,
    ),
    (lower("ctr-run", "ctr run --rm of true", "ms", START), STARTS),
    (lower("podman-exec", "podman exec of true", "ms", EXEC), BOTH),
    (lower("pods-1", "1 pod at once, wall time", "s", None), BOTH),
    (lower("pods-10", "10 pods at once, wall time", "s", None), BOTH),
    (lower("pods-20", "20 pods at once, wall time", "s", None), BOTH),
    (lower("pods-1-cpu", "1 pod at once, CPU time", "s", None), BOTH),
    (lower("pods-10-cpu", "10 pods at once, CPU time", "s", None), BOTH),
    (lower("pods-20-cpu", "20 pods at once, CPU time", "s", None), BOTH),
    (
        lower("pods-1-memory", "Host memory a pod, 1 pod", "MiB", MEMORY),
        ALONE,
    ),
    (
        lower("pods-10-memory", "Host memory a pod, 10 pods", "MiB", MEMORY),
        ALONE,
    ),
    (
        lower("pods-20-memory", "Host memory a pod, 20 pods", "MiB", MEMORY),
        ALONE,
    ),
    (lower("pods-1-vmm", "of it (1 pod) the VMM", "MiB", None), ALONE),
    (lower("pods-1-shim", "of it the shim", "MiB", None), ALONE),
    (
        lower("pods-1-monitors", "of it monitors and stand-ins", "MiB", None),
        ALONE,
    ),
    (
        lower("pods-1-virtiofsd", "beside it virtiofsd", "MiB", None),
        ALONE,
    ),
    (
        lower("pods-1-guest", "beside it the guest's touched pages", "MiB", None),
        ALONE,
    ),
    (
        higher("volume-random-read", "Volume: random reads, 4 KiB", "thousand/s"),
        BOTH,
    ),
    (
        higher(
            "volume-random-write",
            "Volume: random writes, 4 KiB",
            "thousand/s",
        ),
        BOTH,
    ),
    (
        higher(
            "volume-sequential-read",
            "Volume: sequential reads, 1 MiB",
            "MB/s",
        ),
        BOTH,
    ),
    (
        higher(
            "volume-sequential-write",
            "Volume: sequential writes, 1 MiB",
            "MB/s",
        ),
        BOTH,
    ),
    (
        higher("files-create", "10,000 small files: create", "thousand/s"),
        BOTH,
    ),
    (
        higher("files-stat", "10,000 small files: stat", "thousand/s"),
        BOTH,
    ),
    (
        higher("files-read", "10,000 small files: read", "thousand/s"),
        BOTH,
    ),
    (
        higher("files-delete", "10,000 small files: delete", "thousand/s"),
        BOTH,
    ),
    (
        higher("tcp-container-to-host", "TCP, container → host", "Gbit/s"),
        BOTH,
    ),
    (
        higher("tcp-host-to-container", "TCP, host → container", "Gbit/s"),
        BOTH,
    ),
];

const fn lower(name: &'static str, title: &'static str, unit: &'static str, goal: Option<Goal>) -> Figure {
    Figure {
        name,
        title,
        unit,
        better: Better::Lower,
        goal,
    }
}

const fn higher(name: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure {
        name,
        title,
        unit,
        better: Better::Higher,
        goal: None,
    }
}
