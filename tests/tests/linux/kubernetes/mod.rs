//! Pods as Kubernetes makes them: containerd's CRI plugin, with the runtime class `koya`, asked as a kubelet asks.

mod kubelet;
mod pod;
mod scale;

use std::fs;

use koya_tests::vm::Scratch;
use serde_json::json;

use crate::containerd::Containerd;
use kubelet::Kubelet;
use pod::{IMAGE, PAUSE};

/// Where a CRI plugin keeps what it has.
const NAMESPACE: &str = "k8s.io";
/// The network of this test's pods.
const SUBNET: &str = "10.77.0.0/24";

#[test]
fn a_pod_is_one_microvm_to_kubernetes() {
    let network = Scratch::new();
    let engine = engine(&network);
    let kubelet = Kubelet::new(&engine.socket());
    is_ready(&kubelet);
    let mut pod = pod::Pod::run(&kubelet, engine.folder("logs"), "web");
    pod.containers_share_what_is_the_pods();
    pod.probes_and_limits();
    pod.a_container_is_restarted();
    pod.a_raw_block_volume_is_a_disk();
    pod.ends();
    engine.ends();
}

#[test]
fn pods_with_many_containers_and_many_pods_outlive_containerd() {
    let network = Scratch::new();
    let mut engine = engine(&network);
    scale::a_pod_of_five_goes_on_without_containerd(&mut engine);
    scale::many_pods_come_and_go_at_once(&mut engine);
    engine.ends();
}

fn engine(network: &Scratch) -> Containerd {
    let plugins = json!({ "cniVersion": "0.4.0", "name": "koya-test", "plugins": [{
        "type": "bridge", "bridge": "koya-cni0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": network.path("addresses"), "ranges": [[{ "subnet": SUBNET }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    }] });
    fs::create_dir(network.path("net.d")).unwrap();
    fs::write(network.path("net.d/10-koya.conflist"), plugins.to_string()).unwrap();
    let settings = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\ndisable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.koya]\nruntime_type = \"io.containerd.koya.v2\"\n",
        network.path("net.d"),
    );
    let engine = Containerd::with_cri(&settings, NAMESPACE);
    engine.import(PAUSE, "sleep 100000");
    engine.import(IMAGE, "sh");
    engine
}

fn is_ready(kubelet: &Kubelet) {
    let status = kubelet.done("Status", json!({}));
    let conditions = status["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 2, "{status}");
    assert!(
        conditions.iter().all(|condition| condition["status"] == true),
        "{status}"
    );
}
