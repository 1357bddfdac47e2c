//! Pods of many containers, many pods at once, and what becomes of them when containerd goes.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::pod::IMAGE;
use crate::containerd::Containerd;
use crate::support::{pids_of, until};

/// Pods that are there at the same time. A node has dozens; an emulated host has one slow processor for all of them, on which
/// a guest that is to come up within a minute can have so many others beside it.
const PODS: usize = 4;
const AT_ONCE: usize = 2;
/// The cgroup of all pods: a kubelet would have one for each.
const CGROUP: &str = "/koya-pods";
/// `CONTAINER_EXITED` of the interface, and `SANDBOX_READY`.
const EXITED: u64 = 2;
const READY: u64 = 0;
/// Takes all memory there is as soon as it may.
const EATER: &str =
    "until test -e /data/go; do sleep 0.2; done; x=0123456789abcdef; while :; do x=$x$x; done";

fn pod(name: &str, folder: &std::path::Path) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("{name}-uid"), "namespace": "default", "attempt": 0 },
        "hostname": name, "log_directory": folder,
        "linux": {
            "cgroup_parent": CGROUP, "security_context": { "namespace_options": { "network": 0, "pid": 1, "ipc": 0 } },
        },
    })
}

fn text(answer: &Value, field: &str) -> String {
    answer[field].as_str().unwrap().to_owned()
}

pub(super) fn a_pod_of_five_goes_on_without_containerd(engine: &mut Containerd) {
    let folder = engine.folder("five");
    let config = pod("five", &folder);
    let kubelet = Kubelet::new(&engine.socket());
    let request = json!({ "config": config, "runtime_handler": "koya" });
    let id = text(&kubelet.done("RunPodSandbox", request), "pod_sandbox_id");
    is_counted(engine, &id);
    let create = |name: &str, script: &str| {
        let container = json!({
            "metadata": { "name": name, "attempt": 0 }, "image": { "image": IMAGE },
            "command": ["sh", "-c", script], "log_path": format!("{name}.log"),
            "mounts": [{ "container_path": "/data", "host_path": folder, "readonly": false }],
            "linux": {
                "resources": { "memory_limit_in_bytes": 48 << 20 },
                "security_context": { "namespace_options": { "network": 0, "pid": 1, "ipc": 0 } },
            },
        });
        let request = json!({ "pod_sandbox_id": id, "config": container, "sandbox_config": config });
        text(&kubelet.done("CreateContainer", request), "container_id")
    };
    let mut containers: Vec<_> = (0..4)
        .map(|number| {
            let port = 8000 + number;
            create(
                &format!("c{number}"),
                &format!("httpd -p {port} -h /etc; exec sleep 100000"),
            )
        })
        .collect();
    containers.push(create("eater", EATER));
    let each: Vec<_> = containers
        .iter()
        .map(|id| json!({ "container_id": id }))
        .collect();
    kubelet.all_done("StartContainer", &each);
    assert_eq!(pids_of("koya-vmm").len(), 1);
    let exec = |kubelet: &Kubelet, container: &str, script: &str| {
        let request = json!({ "container_id": container, "cmd": ["sh", "-c", script], "timeout": 60 });
        let said = kubelet.done("ExecSync", request);
        assert_eq!(said["exit_code"], 0, "{script}: {said}");
        text(&said, "stdout")
    };
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = exec(&kubelet, &containers[0], boot);
    drop(kubelet);
    engine.restart();
    let kubelet = Kubelet::new(&engine.socket());
    assert_eq!(exec(&kubelet, &containers[1], boot), before);
    // All are still there, and reach each other.
    for (number, container) in (0..4).zip(&containers) {
        let port = 8000 + (number + 1) % 4;
        let script = format!("{boot}; wget -q -O - http://127.0.0.1:{port}/passwd | grep -c root");
        assert_eq!(exec(&kubelet, container, &script), format!("{before}1\n"));
    }
    // One that takes too much memory ends alone, and Kubernetes knows why.
    fs::write(folder.join("go"), "").unwrap();
    let status = |container: &str| {
        let status = kubelet.done("ContainerStatus", json!({ "container_id": container }));
        let status = &status["status"];
        (
            status["state"].as_u64().unwrap(),
            status["exit_code"].as_i64().unwrap(),
            text(status, "reason"),
        )
    };
    until("one that takes all memory does not end", || {
        status(&containers[4]).0 == EXITED
    });
    assert_eq!(status(&containers[4]), (EXITED, 137, "OOMKilled".to_owned()));
    assert_eq!(exec(&kubelet, &containers[0], boot), before);
    kubelet.done("StopPodSandbox", json!({ "pod_sandbox_id": id }));
    kubelet.done("RemovePodSandbox", json!({ "pod_sandbox_id": id }));
    engine.is_clean("something is left of a pod that outlived containerd");
    leaves_no_cgroup();
}

/// What a pod costs the node is in its cgroup, the shim included.
fn is_counted(engine: &Containerd, id: &str) {
    let folder = format!("/sys/fs/cgroup{CGROUP}/{id}");
    let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let inside = read("cgroup.procs");
    let inside: Vec<u32> = inside.lines().map(|pid| pid.parse().unwrap()).collect();
    let ours = ["koya-vmm", "virtiofsd", "koya-monitor"]
        .into_iter()
        .flat_map(pids_of);
    for pid in ours.chain(engine.shims()) {
        assert!(inside.contains(&pid), "{pid} is not in {inside:?}");
    }
    let bytes: u64 = read("memory.current").trim().parse().unwrap();
    println!("a pod without containers: {} MiB", bytes >> 20);
}

fn leaves_no_cgroup() {
    let folder = format!("/sys/fs/cgroup{CGROUP}");
    let entries = fs::read_dir(&folder).unwrap().flatten();
    let left: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_dir(folder).unwrap();
}

pub(super) fn many_pods_come_and_go_at_once(engine: &mut Containerd) {
    let folder = engine.folder("many");
    let start = Instant::now();
    let mut step = start;
    let mut took = |what: &str| {
        println!("{what}: {} ms for {PODS} pods", step.elapsed().as_millis());
        step = Instant::now();
    };
    let kubelet = Kubelet::new(&engine.socket());
    let requests: Vec<_> = (0..PODS)
        .map(|number| json!({ "config": pod(&format!("pod{number}"), &folder), "runtime_handler": "koya" }))
        .collect();
    let waves = requests.chunks(AT_ONCE);
    let pods: Vec<_> = waves
        .flat_map(|wave| kubelet.all_done("RunPodSandbox", wave))
        .collect();
    took("begun");
    let pods: Vec<_> = pods
        .iter()
        .map(|answer| json!({ "pod_sandbox_id": answer["pod_sandbox_id"] }))
        .collect();
    assert_eq!(pids_of("koya-vmm").len(), PODS);
    drop(kubelet);
    engine.restart_politely();
    let kubelet = Kubelet::new(&engine.socket());
    let mut addresses: Vec<_> = kubelet
        .all_done("PodSandboxStatus", &pods)
        .iter()
        .map(|answer| {
            assert_eq!(answer["status"]["state"], READY, "{answer}");
            text(&answer["status"]["network"], "ip")
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), PODS, "{addresses:?}");
    took("there after containerd was restarted");
    kubelet.all_done("StopPodSandbox", &pods);
    kubelet.all_done("RemovePodSandbox", &pods);
    engine.is_clean("something is left of many pods");
    leaves_no_cgroup();
    took("gone");
}
