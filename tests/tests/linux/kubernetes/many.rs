//! Many pods at once: containerd is started anew, whatever belongs to one of them is killed under load, and a pod is begun
//! while containerd dies.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::bench::host::{Host, KvmKind};
use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::sandbox::container;
use super::scale::{leaves_no_cgroup, pod, processes, text};
use crate::containerd::Containerd;
use crate::prepared::WRITER;
use crate::support::{PATIENCE, kill, pids_of, run, until};

/// `CONTAINER_RUNNING` and `CONTAINER_EXITED` of the interface, `SANDBOX_READY` and `SANDBOX_NOTREADY`.
const RUNNING: u64 = 1;
const EXITED: u64 = 2;
const READY: u64 = 0;
const NOT_READY: u64 = 1;
/// How a process ends that was killed, and one of which nobody knows.
const KILLED: i64 = 137;
const UNKNOWN: i64 = 255;
/// What is killed, each in a pod of its own: the process of this name that the pod had first, or the guest's agent.
const VICTIMS: [&str; 5] = [
    "koya-vmm",
    "virtiofsd",
    "koya-monitor",
    "agent",
    "containerd-shim",
];

/// How many pods there are at the same time, and how many begin at once. An emulated host has one slow processor for all
/// of them, on which a guest that is to come up within a minute can have so many others beside it.
fn crowd() -> (usize, usize) {
    match Host::look().kvm {
        KvmKind::Emulated => (VICTIMS.len(), 2),
        _ => (20, 20),
    }
}

/// A pod and its only container.
struct Room {
    pod: String,
    container: String,
    data: PathBuf,
}

pub(super) fn many_pods_are_there_at_once(engine: &mut Containerd) {
    let (pods, at_once) = crowd();
    let start = Instant::now();
    let mut step = start;
    let mut took = |what: &str| {
        println!("{what}: {} ms for {pods} pods", step.elapsed().as_millis());
        step = Instant::now();
    };
    let kubelet = Kubelet::new(&engine.socket());
    let rooms = begin(&kubelet, engine, pods, at_once);
    took("begun");
    assert_eq!(pids_of("koya-vmm").len(), pods);
    drop(kubelet);
    engine.restart_politely();
    let kubelet = Kubelet::new(&engine.socket());
    have_addresses(&kubelet, &rooms);
    took("there after containerd was restarted");
    for (room, victim) in rooms.iter().zip(VICTIMS) {
        is_struck(&kubelet, room, victim);
    }
    // The others have not noticed.
    for room in rooms.iter().skip(VICTIMS.len()) {
        assert_eq!(state(&kubelet, room), (READY, RUNNING, 0));
    }
    took("struck");
    let pods: Vec<_> = rooms
        .iter()
        .map(|room| json!({ "pod_sandbox_id": room.pod }))
        .collect();
    kubelet.all_done("StopPodSandbox", &pods);
    kubelet.all_done("RemovePodSandbox", &pods);
    is_clean(engine, "something is left of many pods");
    took("gone");
}

fn begin(kubelet: &Kubelet, engine: &Containerd, pods: usize, at_once: usize) -> Vec<Room> {
    // The load begins when it is told to.
    let script = format!("until test -e /data/go; do sleep 1; done; {WRITER}");
    let names: Vec<_> = (0..pods).map(|number| format!("pod{number}")).collect();
    let mut rooms = Vec::new();
    for wave in names.chunks(at_once) {
        let configs: Vec<_> = wave.iter().map(|name| config(engine, name)).collect();
        let requests: Vec<_> = configs
            .iter()
            .map(|config| json!({ "config": config, "runtime_handler": "koya" }))
            .collect();
        let ids = kubelet.all_done("RunPodSandbox", &requests);
        let mut requests = Vec::new();
        for ((name, config), id) in wave.iter().zip(&configs).zip(&ids) {
            let mut container = container(name, &script);
            container["mounts"] =
                json!([{ "container_path": "/data", "host_path": engine.folder(name), "readonly": false }]);
            container["linux"]["security_context"]["privileged"] = json!(true);
            requests.push(json!({ "pod_sandbox_id": id["pod_sandbox_id"], "config": container, "sandbox_config": config }));
        }
        let containers = kubelet.all_done("CreateContainer", &requests);
        kubelet.all_done("StartContainer", &containers);
        rooms.extend(
            wave.iter()
                .zip(ids.iter().zip(&containers))
                .map(|(name, (id, container))| Room {
                    pod: text(id, "pod_sandbox_id"),
                    container: text(container, "container_id"),
                    data: engine.folder(name),
                }),
        );
    }
    rooms
}

fn config(engine: &Containerd, name: &str) -> Value {
    let mut config = pod(name, &engine.folder("logs"));
    config["linux"]["security_context"]["privileged"] = json!(true);
    config
}

/// Each has one of its own.
fn have_addresses(kubelet: &Kubelet, rooms: &[Room]) {
    let mut addresses = BTreeMap::new();
    for room in rooms {
        let status = kubelet.done("PodSandboxStatus", json!({ "pod_sandbox_id": room.pod }));
        addresses.insert(text(&status["status"]["network"], "ip"), &room.pod);
        assert_eq!(state(kubelet, room), (READY, RUNNING, 0));
    }
    assert_eq!(addresses.len(), rooms.len(), "{addresses:?}");
}

/// How a pod is, and how its container is, with its exit code.
fn state(kubelet: &Kubelet, room: &Room) -> (u64, u64, i64) {
    let pod = kubelet.done("PodSandboxStatus", json!({ "pod_sandbox_id": room.pod }));
    let container = kubelet.done("ContainerStatus", json!({ "container_id": room.container }));
    let number = |value: &Value| value.as_i64().unwrap();
    let unsigned = |value: &Value| value.as_u64().unwrap();
    let container = &container["status"];
    (
        unsigned(&pod["status"]["state"]),
        unsigned(&container["state"]),
        number(&container["exit_code"]),
    )
}

/// Something of a pod is killed while it works. Kubernetes sees that it has ended.
fn is_struck(kubelet: &Kubelet, room: &Room, victim: &str) {
    fs::write(room.data.join("go"), "").unwrap();
    until("nothing is written", || room.data.join("file").exists());
    let start = Instant::now();
    match victim {
        "agent" => fs::write(room.data.join("die"), "").unwrap(),
        name => {
            let inside = processes(&room.pod);
            let of_name = pids_of(name).into_iter().filter(|pid| inside.contains(pid));
            kill(of_name.min().unwrap(), libc::SIGKILL);
        }
    }
    // A shim takes along what it knows: that is then containerd's own code.
    let code = if victim == "containerd-shim" {
        UNKNOWN
    } else {
        KILLED
    };
    while state(kubelet, room) != (NOT_READY, EXITED, code) {
        let is = state(kubelet, room);
        assert!(
            start.elapsed() < PATIENCE,
            "{victim}: the end is not seen: {is:?}"
        );
        thread::sleep(Duration::from_millis(100));
    }
    println!(
        "{victim}: Kubernetes knows after {} ms",
        start.elapsed().as_millis()
    );
}

/// No process, state or mount, no namespace of networks nor an interface of one, no cgroup.
fn is_clean(engine: &Containerd, what: &str) {
    engine.is_clean(what);
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let namespaces: Vec<_> = namespaces.map(|entry| entry.file_name()).collect();
    assert!(namespaces.is_empty(), "{what}: {namespaces:?}");
    assert_eq!(run("ip -oneline link show master koya-cni0"), "", "{what}");
    leaves_no_cgroup();
}

/// As a kubelet does when it finds what it has not been told of: it removes that, and tries again.
pub(super) fn a_pod_is_begun_again_that_containerd_has_not_seen_through(engine: &mut Containerd) {
    let config = config(engine, "again");
    let request = json!({ "config": config, "runtime_handler": "koya" });
    let kubelet = Kubelet::new(&engine.socket());
    thread::scope(|scope| {
        let answer = scope.spawn(move || kubelet.call("RunPodSandbox", &request));
        until("no microVM boots", || !pids_of("koya-vmm").is_empty());
        engine.restart();
        let (code, message) = answer.join().unwrap().unwrap_err();
        assert_eq!(code, "UNAVAILABLE", "{message}");
    });
    let kubelet = Kubelet::new(&engine.socket());
    let found = kubelet.done("ListPodSandbox", json!({}));
    println!("found after containerd was killed: {found}");
    for pod in found["items"].as_array().unwrap() {
        let pod = json!({ "pod_sandbox_id": pod["id"] });
        kubelet.done("StopPodSandbox", pod.clone());
        kubelet.done("RemovePodSandbox", pod);
    }
    let mut again = config;
    again["metadata"]["attempt"] = json!(1);
    let request = json!({ "config": again, "runtime_handler": "koya" });
    let pod = json!({ "pod_sandbox_id": kubelet.done("RunPodSandbox", request)["pod_sandbox_id"] });
    assert_eq!(pids_of("koya-vmm").len(), 1);
    kubelet.done("StopPodSandbox", pod.clone());
    kubelet.done("RemovePodSandbox", pod);
    is_clean(engine, "something is left of a pod that was begun twice");
}
