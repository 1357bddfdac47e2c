//! How large a microVM is, from the container's limits and from annotations. That of a pod is made for its first container,
//! which has no limits: what all of them may use together, Kubernetes' engines say in annotations of that one.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BundleError;
use super::config::{Config, wrong};
use crate::settings::{Annotation, LEAST_MEMORY, MAX_VCPUS, MOST_MEMORY, Settings, Usual};

/// Those by which containerd and CRI-O tell a pod's first container, and what it is then.
const KINDS: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];
const POD: &str = "sandbox";
/// Others begin a pod with a program that does nothing but stay: podman's, and that of Kubernetes.
const PAUSES: [&[&str]; 2] = [&["/catatonit", "-P"], &["/pause"]];
/// What is added up of a pod's limits: bytes, and microseconds of processor time in each period. containerd has an annotation
/// for each, CRI-O one with all of them as JSON.
const POD_MEMORY: Sum = ("io.kubernetes.cri.sandbox-memory", "memory_limit_in_bytes");
const POD_QUOTA: Sum = ("io.kubernetes.cri.sandbox-cpu-quota", "cpu_quota");
const POD_PERIOD: Sum = ("io.kubernetes.cri.sandbox-cpu-period", "cpu_period");
/// CRI-O's, by its new name and by the old one.
const POD_RESOURCES: [&str; 2] = [
    "pod-linux-resources.crio.io",
    "io.kubernetes.cri-o.PodLinuxResources",
];
/// What kernel and agent need beside the container's memory, in MiB.
const BESIDE: u64 = 96;

/// By which annotation containerd tells a sum, and by which field CRI-O.
type Sum = (&'static str, &'static str);

/// How large a microVM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Processors: 1 to 32.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
}

impl Size {
    pub(super) fn of(config: &Config, settings: &Settings) -> Result<Self, BundleError> {
        let annotation = |name: Annotation, range: std::ops::RangeInclusive<u64>, wanted| {
            let name = name.name();
            let value = config.get("annotations").and_then(|all| all.get(name));
            let Some(value) = value else { return Ok(None) };
            let number = value.as_str().and_then(|text| text.parse().ok());
            match number.filter(|number| range.contains(number)) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(format!("annotations[{name:?}]"), Some(value), wanted)),
            }
        };
        let vcpus = annotation(Annotation::Vcpus, 1..=MAX_VCPUS, "a number from 1 to 32")?;
        let memory = annotation(
            Annotation::Memory,
            LEAST_MEMORY..=MOST_MEMORY,
            "a number of MiB, at least 128",
        )?;
        let vcpus = vcpus
            .unwrap_or_else(|| processors(config, settings))
            .clamp(1, MAX_VCPUS);
        Ok(Self {
            vcpus: u8::try_from(vcpus).unwrap_or(1),
            memory_mib: memory.unwrap_or_else(|| usual_memory(config, settings)),
        })
    }
}

/// A limit, if there is one: of the container, or of the pod whose first container it is.
fn limit(config: &Config, group: &str, name: &str, of_pod: Sum) -> Option<u64> {
    let number = match is_pod(config) {
        true => sum(config, of_pod),
        false => {
            let resources = config.get("linux")?.get("resources")?;
            resources.get(group)?.get(name)?.as_i64()
        }
    };
    u64::try_from(number?).ok().filter(|&number| number > 0)
}

/// What an engine of Kubernetes has added up for a pod.
fn sum(config: &Config, (annotation, field): Sum) -> Option<i64> {
    if let Some(told) = text(config, annotation) {
        return told.parse().ok();
    }
    let all = POD_RESOURCES.iter().find_map(|name| text(config, name))?;
    let all: Value = serde_json::from_str(all).ok()?;
    all.get(field)?.as_i64()
}

fn text<'a>(config: &'a Config, annotation: &str) -> Option<&'a str> {
    config.get("annotations")?.get(annotation)?.as_str()
}

/// Whether an engine of Kubernetes says what the container is in a pod.
pub(super) fn is_of_kubernetes(config: &Config) -> bool {
    KINDS.iter().any(|kind| text(config, kind).is_some())
}

fn is_pod(config: &Config) -> bool {
    let args = config.get("process").and_then(|process| process.get("args"));
    let args = args
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(Value::as_str);
    let args: Vec<_> = args.map(Option::unwrap_or_default).collect();
    KINDS.iter().any(|kind| text(config, kind) == Some(POD)) || PAUSES.contains(&args.as_slice())
}

/// What the operator wants if nothing is said.
fn usual(config: &Config, settings: &Settings) -> Usual {
    match is_pod(config) {
        true => settings.pod,
        false => settings.container,
    }
}

/// As many as the container may use at once.
fn processors(config: &Config, settings: &Settings) -> u64 {
    let Some(quota) = limit(config, "cpu", "quota", POD_QUOTA) else {
        return usual(config, settings).vcpus;
    };
    let period = limit(config, "cpu", "period", POD_PERIOD).unwrap_or(100_000);
    quota.div_ceil(period)
}

/// What the container may use, and what its kernel needs.
fn usual_memory(config: &Config, settings: &Settings) -> u64 {
    let usual = usual(config, settings).memory_mib;
    // Without a limit in a pod that has some, a container may use what the others do not.
    let Some(limit) = limit(config, "memory", "limit", POD_MEMORY) else {
        return usual;
    };
    let needed = limit.div_ceil(1 << 20).saturating_add(BESIDE);
    // A limit of more than any host has is none.
    match needed {
        more if more > MOST_MEMORY => usual,
        needed => needed.max(settings.container.memory_mib),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USUAL_MEMORY: u64 = 512;
    const USUAL_POD_MEMORY: u64 = 2048;

    fn size(config: &Value) -> (u8, u64) {
        size_with(config, &Settings::default())
    }

    fn size_with(config: &Value, settings: &Settings) -> (u8, u64) {
        let size = Size::of(config.as_object().unwrap(), settings).unwrap();
        (size.vcpus, size.memory_mib)
    }

    #[test]
    fn what_nobody_says_is_the_operators_choice() {
        let size = |vcpus, memory_mib| Usual { vcpus, memory_mib };
        let settings = Settings {
            container: size(2, 256),
            pod: size(4, 3000),
            ..Settings::default()
        };
        assert_eq!(size_with(&json!({}), &settings), (2, 256));
        let pod = json!({ "annotations": { "io.kubernetes.cri.container-type": "sandbox" } });
        assert_eq!(size_with(&pod, &settings), (4, 3000));
        let limits = |bytes: u64| json!({ "linux": { "resources": { "memory": { "limit": bytes }, "cpu": { "quota": 100_000 } } } });
        assert_eq!(size_with(&limits(1 << 30), &settings), (1, 1024 + BESIDE));
        assert_eq!(size_with(&limits(64 << 20), &settings), (1, 256));
    }

    #[test]
    fn a_pod_is_as_large_as_its_containers_together() {
        let pod = |more: Value| {
            let mut annotations = json!({ "io.kubernetes.cri.container-type": "sandbox" });
            let fields = annotations.as_object_mut().unwrap();
            fields.extend(more.as_object().unwrap().clone());
            // The first container's own limits are those of a process that sleeps.
            json!({ "annotations": annotations, "linux": { "resources": { "cpu": { "quota": 1_000, "shares": 2 } } } })
        };
        assert_eq!(size(&pod(json!({}))), (1, USUAL_POD_MEMORY));
        let some = json!({
            "io.kubernetes.cri.sandbox-memory": "4294967296", "io.kubernetes.cri.sandbox-cpu-quota": "350000",
            "io.kubernetes.cri.sandbox-cpu-period": "100000",
        });
        assert_eq!(size(&pod(some)), (4, 4096 + BESIDE));
        let none =
            json!({ "io.kubernetes.cri.sandbox-memory": "0", "io.kubernetes.cri.sandbox-cpu-quota": "x" });
        assert_eq!(size(&pod(none)), (1, USUAL_POD_MEMORY));
        // Said outright it counts more, as everywhere.
        assert_eq!(
            size(&pod(
                json!({ "dev.koya.vcpus": "3", "dev.koya.memory-mib": "700" })
            )),
            (3, 700)
        );
        assert_eq!(
            size(&json!({ "process": { "args": ["/catatonit", "-P"] } })),
            (1, USUAL_POD_MEMORY)
        );
        assert_eq!(
            size(&json!({ "process": { "args": ["/catatonit", "-P", "x"] } })),
            (1, USUAL_MEMORY)
        );
        let single = json!({ "annotations": { "io.kubernetes.cri.container-type": "container" } });
        assert_eq!(size(&single), (1, USUAL_MEMORY));
    }

    #[test]
    fn a_pod_of_cri_o_is_as_large_as_it_says_in_json() {
        let pod = |name: &str, text: &str| json!({ "annotations": { "io.kubernetes.cri-o.ContainerType": "sandbox", (name): text } });
        let some = r#"{"cpu_period":100000,"cpu_quota":250000,"cpu_shares":2048,"memory_limit_in_bytes":1073741824}"#;
        for name in POD_RESOURCES {
            assert_eq!(size(&pod(name, some)), (3, 1024 + BESIDE), "{name}");
            for none in ["{}", "[", "7", r#"{"memory_limit_in_bytes":-1,"cpu_quota":"x"}"#] {
                assert_eq!(size(&pod(name, none)), (1, USUAL_POD_MEMORY), "{name} {none}");
            }
        }
    }
}
