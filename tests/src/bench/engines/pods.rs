//! Pods that are started at once through containerd's CRI plugin, as a kubelet does it: time, processor time, and what they
//! hold of the host's memory.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::calm::Calm;
use super::containerd::{Containerd, IMAGE};
use super::cri::Cri;
use super::parts::POD_MIB;
use super::{PATIENCE, TURNS};
use crate::bench::BenchError;
use crate::bench::measure::Context;
use crate::bench::options::Options;
use crate::bench::sheet::{Sheet, say};
use crate::bench::smaps::{Pages, held};
use crate::bench::subject::Subject;

/// The figures of this file.
pub(super) const MEASURES: [&str; 14] = [
    "pods-1",
    "pods-1-cpu",
    "pods-1-memory",
    "pods-1-vmm",
    "pods-1-shim",
    "pods-1-monitors",
    "pods-1-virtiofsd",
    "pods-1-guest",
    "pods-10",
    "pods-10-cpu",
    "pods-10-memory",
    "pods-20",
    "pods-20-cpu",
    "pods-20-memory",
];
/// How many at once.
const COUNTS: [usize; 3] = [1, 10, 20];
/// The cgroup of all pods, in this run's.
const PODS: &str = "pods";
/// Until a guest has nothing more to do.
const CALM: Duration = Duration::from_secs(3);
/// `CONTAINER_RUNNING` of the interface.
const RUNNING: u64 = 1;

pub(super) fn measure(engine: &Containerd<'_>, context: &Context, options: &Options, sheet: &mut Sheet) {
    let limit = context.limit.saturating_mul(PATIENCE);
    let mut cri = match Cri::new(&engine.socket(), &context.scratch, limit) {
        Ok(cri) => cri,
        Err(error) => {
            say(&format!("pods: {}", error.in_full()));
            sheet.note("pods-1", Subject::KOYA, Err(&error));
            return;
        }
    };
    let calm = Calm::now(&context.scratch);
    for count in COUNTS {
        let figures = MEASURES.iter().copied().filter(|name| is_of(name, count));
        if !options.wants(&figures.collect::<Vec<_>>()) {
            continue;
        }
        // The first pod of all fills caches; more of them would not fill others.
        let first = if count == 1 { 0 } else { 1 };
        for round in first..=super::rounds(options, context) {
            for subject in TURNS {
                say(&format!("pods at once, {}: {count}", subject.label()));
                let mut wave = Wave::new(engine, &mut cri, subject, options.at_once.unwrap_or(count));
                let outcome = wave.start(&format!("{count}-{round}"), count);
                wave.end();
                calm.wait(context.limit);
                note(count, subject, outcome, round > 0, sheet);
            }
        }
    }
}

/// Whether a figure is one of this many pods.
fn is_of(figure: &str, count: usize) -> bool {
    figure.split('-').nth(1) == Some(&count.to_string())
}

fn note(
    count: usize,
    subject: Subject,
    outcome: Result<Sample, BenchError>,
    counts: bool,
    sheet: &mut Sheet,
) {
    let mut take = |what: &str, sample: Result<f64, &BenchError>| {
        sheet.take(&format!("pods-{count}{what}"), subject, sample, counts);
    };
    let sample = match &outcome {
        Ok(sample) => sample,
        Err(error) => return take("", Err(error)),
    };
    take("", Ok(sample.wall));
    take("-cpu", Ok(sample.cpu));
    match &sample.memory {
        None => {}
        Some(Err(error)) => take("-memory", Err(error)),
        Some(Ok(memory)) => {
            take("-memory", Ok(memory.vmm + memory.shim + memory.monitors));
            for (what, mib) in [
                ("-vmm", memory.vmm),
                ("-shim", memory.shim),
                ("-monitors", memory.monitors),
                ("-virtiofsd", memory.virtiofsd),
                ("-guest", memory.guest),
            ] {
                // Of more than one, there is no row for it.
                take(what, Ok(mib));
            }
        }
    }
}

/// What a wave took.
struct Sample {
    /// Seconds until the last container of the last pod ran.
    wall: f64,
    /// Processor seconds of containerd and all that it started, by then.
    cpu: f64,
    /// Of Koya.
    memory: Option<Result<Memory, BenchError>>,
}

/// What a pod holds of the host's memory, in MiB: pages that several processes share count by their share.
#[derive(Debug, Default, PartialEq)]
struct Memory {
    vmm: f64,
    shim: f64,
    /// Monitors, and the processes that stand for containers.
    monitors: f64,
    virtiofsd: f64,
    guest: f64,
}

/// Pods that begin and end together.
struct Wave<'a> {
    engine: &'a Containerd<'a>,
    cri: &'a mut Cri,
    subject: Subject,
    pods: Vec<Value>,
    /// Calls that are made at the same time.
    at_once: usize,
}

impl<'a> Wave<'a> {
    fn new(engine: &'a Containerd<'a>, cri: &'a mut Cri, subject: Subject, at_once: usize) -> Self {
        Self {
            engine,
            cri,
            subject,
            pods: Vec::new(),
            at_once,
        }
    }

    /// Pods with a container each that sleeps, in the steps of a kubelet, each step for all at once.
    fn start(&mut self, name: &str, count: usize) -> Result<Sample, BenchError> {
        let configs: Vec<Value> = (0..count)
            .map(|number| self.pod(&format!("{name}-{number}")))
            .collect();
        let handler = if self.subject == Subject::Crun {
            "crun"
        } else {
            "koya"
        };
        let requests: Vec<Value> = configs
            .iter()
            .map(|config| json!({ "config": config, "runtime_handler": handler }))
            .collect();
        let (before, begun) = (self.engine.cgroup.cpu_time()?, Instant::now());
        for some in requests.chunks(self.at_once) {
            let answers = self.cri.all("RunPodSandbox", some)?;
            let id = |answer: &Value| json!({ "pod_sandbox_id": answer["pod_sandbox_id"] });
            self.pods.extend(answers.done.iter().map(id));
            if let Some(reason) = answers.failed.first() {
                let (failed, tried) = (answers.failed.len(), some.len());
                return Err(BenchError::Output {
                    expected: "all pods to start",
                    found: format!("{failed} of {tried} did not: {reason}"),
                });
            }
        }
        let requests = self.pods.iter().zip(&configs).map(|(pod, config)| {
            json!({ "pod_sandbox_id": pod["pod_sandbox_id"], "config": container(), "sandbox_config": config })
        });
        let created = self.all_done("CreateContainer", &requests.collect::<Vec<_>>())?;
        let ids: Vec<Value> = created
            .iter()
            .map(|answer| json!({ "container_id": answer["container_id"] }))
            .collect();
        self.all_done("StartContainer", &ids)?;
        let (wall, after) = (begun.elapsed(), self.engine.cgroup.cpu_time()?);
        let states = self.cri.all_done("ContainerStatus", &ids)?;
        if states
            .iter()
            .any(|state| state.pointer("/status/state") != Some(&RUNNING.into()))
        {
            return Err(BenchError::Output {
                expected: "all containers to run",
                found: json!(states).to_string().chars().take(200).collect(),
            });
        }
        thread::sleep(CALM);
        let memory = (self.subject == Subject::KOYA).then(|| self.memory(count));
        Ok(Sample {
            wall: wall.as_secs_f64(),
            cpu: after - before,
            memory,
        })
    }

    /// Makes calls that all have to succeed.
    fn all_done(&mut self, method: &str, requests: &[Value]) -> Result<Vec<Value>, BenchError> {
        let mut done = Vec::new();
        for some in requests.chunks(self.at_once) {
            done.extend(self.cri.all_done(method, some)?);
        }
        Ok(done)
    }

    /// Stops and removes those that have begun.
    fn end(&mut self) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            if self.pods.is_empty() {
                return;
            }
            let outcome = self.cri.all_done(method, &self.pods);
            if let Err(error) = outcome {
                say(&format!("after pods: {}", error.in_full()));
            }
        }
    }

    fn pod(&self, name: &str) -> Value {
        let name = format!(
            "{}-{name}",
            if self.subject == Subject::Crun {
                "crun"
            } else {
                "koya"
            }
        );
        json!({
            "metadata": { "name": name, "uid": name, "namespace": "default", "attempt": 0 }, "hostname": name,
            "linux": {
                "cgroup_parent": self.engine.cgroup.below(PODS),
                "security_context": { "namespace_options": { "network": 0, "pid": 1, "ipc": 0 } },
            },
        })
    }

    /// What each of the pods holds, by the processes in their cgroups.
    fn memory(&self, count: usize) -> Result<Memory, BenchError> {
        let mut all = Memory::default();
        for pid in self.engine.cgroup.processes(PODS) {
            // Threads of KVM's are among them, which have no program and no memory.
            if fs::read_link(format!("/proc/{pid}/exe")).is_err() {
                continue;
            }
            let path = format!("/proc/{pid}/comm");
            let name = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
            let held = held(&pid, POD_MIB, Pages::Proportional)?;
            all.guest += held.guest;
            let kind = match name.trim() {
                "koya-vmm" => &mut all.vmm,
                "virtiofsd" => &mut all.virtiofsd,
                name if name.starts_with("containerd-shim") => &mut all.shim,
                _ => &mut all.monitors,
            };
            *kind += held.own;
        }
        all.of_each(count)
    }
}

impl Memory {
    /// The share of one of so many pods; something of each kind has to be there.
    fn of_each(self, count: usize) -> Result<Self, BenchError> {
        let kinds = [self.vmm, self.shim, self.monitors, self.virtiofsd, self.guest];
        if kinds.iter().any(|mib| *mib <= 0.0) {
            return Err(BenchError::Output {
                expected: "VMM, shim, monitor, virtiofsd and guest in a pod's cgroup",
                found: format!("{self:?}"),
            });
        }
        let of = |mib: f64| mib / count as f64;
        Ok(Self {
            vmm: of(self.vmm),
            shim: of(self.shim),
            monitors: of(self.monitors),
            virtiofsd: of(self.virtiofsd),
            guest: of(self.guest),
        })
    }
}

fn container() -> Value {
    json!({
        "metadata": { "name": "sleeper", "attempt": 0 }, "image": { "image": IMAGE }, "command": ["sleep", "1000000"],
        "linux": { "security_context": { "namespace_options": { "network": 0, "pid": 1, "ipc": 0 } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_belong_to_a_count_of_pods() {
        assert!(is_of("pods-1-vmm", 1) && !is_of("pods-10", 1) && is_of("pods-10", 10));
        for name in MEASURES {
            assert_eq!(
                COUNTS.iter().filter(|count| is_of(name, **count)).count(),
                1,
                "{name}"
            );
        }
    }

    #[test]
    fn memory_is_shared_out_and_nothing_is_missing() {
        let all = |vmm| Memory {
            vmm,
            shim: 2.0,
            monitors: 2.0,
            virtiofsd: 2.0,
            guest: 2.0,
        };
        assert_eq!(all(4.0).of_each(2).unwrap().vmm, 2.0);
        assert!(all(0.0).of_each(2).is_err());
    }
}
