//! A pod of many containers, and what becomes of it when containerd goes.

use std::fs;

use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::sandbox::{self, container};
use crate::containerd::Containerd;
use crate::support::{pids_of, until};

/// The cgroup of all pods: a kubelet would have one for each.
const CGROUP: &str = "/koya-pods";
/// `CONTAINER_EXITED` of the interface.
const EXITED: u64 = 2;
/// Takes all memory there is as soon as it may.
const EATER: &str =
    "until test -e /data/go; do sleep 0.2; done; x=0123456789abcdef; while :; do x=$x$x; done";

/// What a kubelet asks for a pod in that cgroup.
pub(super) fn pod(name: &str, folder: &std::path::Path) -> Value {
    let mut config = sandbox::pod(name, folder);
    config["linux"]["cgroup_parent"] = json!(CGROUP);
    config
}

/// The processes of a pod on the node.
pub(super) fn processes(id: &str) -> Vec<u32> {
    let inside = fs::read_to_string(format!("/sys/fs/cgroup{CGROUP}/{id}/cgroup.procs")).unwrap();
    inside.lines().map(|pid| pid.parse().unwrap()).collect()
}

pub(super) fn text(answer: &Value, field: &str) -> String {
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
        let mut container = container(name, script);
        container["mounts"] = json!([{ "container_path": "/data", "host_path": folder, "readonly": false }]);
        container["linux"]["resources"] = json!({ "memory_limit_in_bytes": 48 << 20 });
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
    let inside = processes(id);
    let ours = ["koya-vmm", "virtiofsd", "koya-monitor"]
        .into_iter()
        .flat_map(pids_of);
    for pid in ours.chain(engine.shims()) {
        assert!(inside.contains(&pid), "{pid} is not in {inside:?}");
    }
    let bytes = fs::read_to_string(format!("/sys/fs/cgroup{CGROUP}/{id}/memory.current")).unwrap();
    let bytes: u64 = bytes.trim().parse().unwrap();
    println!("a pod without containers: {} MiB", bytes >> 20);
}

pub(super) fn leaves_no_cgroup() {
    let folder = format!("/sys/fs/cgroup{CGROUP}");
    let entries = fs::read_dir(&folder).unwrap().flatten();
    let left: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_dir(folder).unwrap();
}
