//! The suite `engines`: podman and containerd with Koya and with crun in their hands.
//!
//! ```text
//!  start     podman run, ctr run, podman exec      against   the same with crun, and a bare microVM
//!  stages    the same starts, each call of the runtime noted by a program in its place: stage
//!  pods      1, 10, 20 pods at once through containerd's CRI plugin: time, CPU time, memory
//!  volumes   fio, and 10,000 small files (files, in the container) on a bind volume
//!  network   iperf3 between the host and a container on podman's bridge
//! ```
//!
//! All of it happens in a network and a mount table of its own.

use std::path::Path;

use super::BenchError;
use super::host::KvmKind;
use super::measure::Context;
use super::options::Options;
use super::process::version;
use super::sheet::{Sheet, say};
use super::subject::{Column, Subject};
use super::suite::Row;
use super::timeline::Timeline;
use super::tree;

mod archive;
mod calm;
mod cgroup;
mod containerd;
mod cri;
mod figures;
pub mod files;
mod network;
mod parts;
mod podman;
mod pods;
pub mod stage;
mod stages;
mod start;
mod volumes;

use containerd::Containerd;
use figures::FIGURES;
use parts::Parts;
use podman::Podman;

/// Those whose turn it is, one after the other.
const TURNS: [Subject; 2] = [Subject::KOYA, Subject::Crun];

/// How much longer than anything else what goes through every file or every pod may take.
const PATIENCE: u32 = 10;

/// What the suite yields.
pub(super) type Outcome = (Vec<Column>, Vec<Row>, Vec<Timeline>);

/// Measures everything.
///
/// # Errors
/// When something that every sample needs is missing. What fails by itself is in the rows instead.
pub(super) fn run(options: &Options, context: &Context) -> Result<Outcome, BenchError> {
    isolate()?;
    let parts = Parts::prepare(options, &context.scratch)?;
    let columns = parts.columns()?;
    let mut sheet = Sheet::new(&FIGURES, columns.iter().map(|column| column.subject).collect());
    let mut timelines = Vec::new();
    let podman = Podman::new(&parts)?;
    if options.wants(&start::MEASURES) || options.wants(&["timeline"]) || options.wants(&pods::MEASURES) {
        let engine = Containerd::new(&parts, context)?;
        if options.wants(&start::MEASURES) {
            start::measure(&parts, &podman, &engine, context, options, &mut sheet);
        }
        if options.wants(&["timeline"]) {
            say("the stages of a start");
            timelines = stages::measure(&parts, &podman, &engine, context, options.runs);
        }
        if options.wants(&pods::MEASURES) {
            pods::measure(&engine, context, options, &mut sheet);
        }
    }
    if options.wants(&volumes::MEASURES) {
        say("files on a volume");
        volumes::measure(&parts, &podman, context, options, &mut sheet);
    }
    if options.wants(&network::MEASURES) {
        say("TCP between the host and a container");
        network::measure(&podman, context, options, &mut sheet);
    }
    sheet.rows.retain(Row::was_asked);
    Ok((columns, sheet.rows, timelines))
}

/// How often that is done: where everything is emulated it takes minutes, and is done once.
fn rounds(options: &Options, context: &Context) -> usize {
    match context.kvm {
        KvmKind::Emulated => 1,
        _ => options.runs,
    }
}

/// Which engines they are, and how pods are started if not all at once.
///
/// # Errors
/// When one of them cannot be run.
pub(super) fn described(options: &Options) -> Result<String, BenchError> {
    let [podman, containerd] =
        ["/usr/bin/podman", "/usr/bin/containerd"].map(|path| version(Path::new(path)));
    let pods = options
        .at_once
        .map(|count| format!("; no more than {count} pods at once"));
    Ok(format!(
        "{}, {}; everything on the host in memory{}",
        podman?,
        containerd?,
        pods.unwrap_or_default()
    ))
}

/// Gives this process a network and a mount table of its own, which go with it: bridges, rules and mounts of engines stay
/// out of the host's.
fn isolate() -> Result<(), BenchError> {
    // SAFETY: the call takes flags only; there is one thread, and it has nothing open that depends on them.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(BenchError::host("make namespaces, which takes root")(error));
    }
    let line = "mount --make-rprivate / && ip link set lo up";
    tree::run(std::process::Command::new("sh").args(["-c", line])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_measured_somewhere() {
        let parts = [
            &start::MEASURES[..],
            &pods::MEASURES,
            &volumes::MEASURES,
            &network::MEASURES,
        ];
        let measured = parts.concat();
        for (figure, _) in &FIGURES {
            assert!(measured.contains(&figure.name), "{}", figure.name);
        }
        assert_eq!(measured.len(), FIGURES.len());
    }
}
