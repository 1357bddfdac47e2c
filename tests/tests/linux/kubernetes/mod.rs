//! Pods as Kubernetes makes them: containerd's CRI plugin, with the runtime class `koya`, asked as a kubelet asks.

mod kubectl;
mod kubelet;
mod many;

mod plugins;
mod pod;
mod refusals;
mod sandbox;
mod scale;
mod stream;
mod volumes;

use std::fs;

use koya_tests::vm::Scratch;
use serde_json::{Value, json};

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
fn kubectl_speaks_with_processes_and_volumes_are_a_kubelets() {
    let network = Scratch::new();
    let engine = engine(&network);
    let kubelet = Kubelet::new(&engine.socket());
    let folder = engine.folder("pod");
    let mut config = sandbox::pod("house", &folder);
    config["linux"]["security_context"]["privileged"] = json!(true);
    let pod = sandbox::Sandbox::run(&kubelet, folder, config, "koya");
    let volumes = volumes::Volumes::make(&pod);
    let container = volumes.are_seen_by(&pod);
    kubectl::an_exec_has_streams_and_an_exit_code(&pod, &container);
    kubectl::files_are_copied(&pod, &container);
    kubectl::ports_are_forwarded(&pod);
    kubectl::a_terminal_is_ones_own(&pod, &container);
    kubectl::what_is_attached_comes_and_goes(&pod);
    kubectl::a_privileged_container_sees_the_guests_devices(&pod);
    refusals::what_a_guest_cannot_have_is_refused(&pod);
    pod.ends();
    volumes.end();
    engine.ends();
}

#[test]
fn pods_have_the_networks_that_plugins_make() {
    let network = Scratch::new();
    let plugins = [
        ("ptp", plugins::ptp(&network)),
        ("device", plugins::host_device()),
    ];
    let engine = engine_with(&network, &plugins);
    plugins::pods_of_ptp_reach_the_node_and_each_other(&engine, &network);
    plugins::a_device_of_the_node_goes_and_comes_back(&engine);
    engine.ends();
}

#[test]
fn pods_with_many_containers_and_many_pods_outlive_containerd() {
    let network = Scratch::new();
    let mut engine = engine(&network);
    scale::a_pod_of_five_goes_on_without_containerd(&mut engine);
    many::many_pods_are_there_at_once(&mut engine);
    many::a_pod_is_begun_again_that_containerd_has_not_seen_through(&mut engine);
    engine.ends();
}

fn engine(network: &Scratch) -> Containerd {
    engine_with(network, &[])
}

/// With more networks than that of a bridge: for each, there are the handlers `koya-NAME` and `runc-NAME`.
fn engine_with(network: &Scratch, plugins: &[(&str, Value)]) -> Containerd {
    let bridge = json!({
        "type": "bridge", "bridge": "koya-cni0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": network.path("addresses"), "ranges": [[{ "subnet": SUBNET }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    configure(network, "net", &bridge);
    let mut settings = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\ndisable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.koya]\nruntime_type = \"io.containerd.koya.v2\"\n",
        network.path("net.d"),
    );
    for (name, plugin) in plugins {
        configure(network, name, plugin);
        for runtime in ["koya", "runc"] {
            settings.push_str(&format!(
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{runtime}-{name}]\n\
                 runtime_type = \"io.containerd.{runtime}.v2\"\ncni_conf_dir = {:?}\n",
                network.path(&format!("{name}.d")),
            ));
        }
    }
    let engine = Containerd::with_cri(&settings, NAMESPACE);
    engine.import(PAUSE, "sleep 100000");
    engine.import(IMAGE, "sh");
    engine
}

/// Describes a network where containerd finds it.
fn configure(network: &Scratch, name: &str, plugin: &Value) {
    let folder = network.path(&format!("{name}.d"));
    let network = json!({ "cniVersion": "0.4.0", "name": format!("koya-{name}"), "plugins": [plugin] });
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("10-koya.conflist"), network.to_string()).unwrap();
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
