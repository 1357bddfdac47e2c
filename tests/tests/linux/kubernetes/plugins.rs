//! Networks of other plugins than `bridge`: what a plugin sets in a pod's namespace is what the guest has, as it is what runc's
//! container has.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use koya_tests::vm::Scratch;
use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::sandbox::{Sandbox, container, pod};
use crate::containerd::Containerd;
use crate::support::{noise, run, sha256};

/// The device that a pod is given, and the one at its other end.
const DEVICE: &str = "koya-dev";
const FAR: &str = "koya-far";
/// Bytes of the page that everybody serves: many frames.
const PAGE: u64 = 100_000;
/// What a container sees of its network.
const LOOK: &str = "cat /sys/class/net/eth0/mtu; ip -4 address show dev eth0 | grep inet; ip route";

/// A pair of interfaces for each pod. All that it sends goes to the node, which is its gateway.
pub fn ptp(network: &Scratch) -> Value {
    json!({ "type": "ptp", "mtu": 1380, "ipMasq": false, "ipam": {
        "type": "host-local", "dataDir": network.path("ptp"), "ranges": [[{ "subnet": "10.79.0.0/24" }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    } })
}

/// A device of the node moves into the pod, and back.
pub fn host_device() -> Value {
    json!({ "type": "host-device", "device": DEVICE, "ipam": {
        "type": "static", "addresses": [{ "address": "10.80.0.2/24", "gateway": "10.80.0.1" }],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "192.0.2.0/24", "gw": "10.80.0.9" }],
    } })
}

/// What serves the page on the node.
struct Server(Child);

impl Server {
    fn new(folder: &Path) -> Self {
        fs::write(folder.join("page"), noise(PAGE)).unwrap();
        let mut command = Command::new("/bin/busybox");
        command.args(["httpd", "-f", "-p", "8000", "-h"]).arg(folder);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pod with a container that serves the page, too.
struct Member<'a> {
    pod: Sandbox<'a>,
    id: String,
}

impl<'a> Member<'a> {
    fn new(kubelet: &'a Kubelet, folder: &Path, name: &str, handler: &str) -> Self {
        let pod = Sandbox::run(kubelet, folder.to_owned(), pod(name, folder), handler);
        let mut config = container(name, "httpd -p 8000 -h /data; exec sleep 100000");
        config["mounts"] = json!([{ "container_path": "/data", "host_path": folder, "readonly": true }]);
        let id = pod.begin(&config);
        Self { pod, id }
    }

    /// What its container has, whatever its address.
    fn network(&self) -> Vec<String> {
        let text = self.pod.said(&self.id, LOOK);
        let own = self.pod.address();
        let text = text.replace(&format!("inet {own}/"), "inet ADDRESS/");
        let text = text.replace(&format!("src {own}"), "src ADDRESS");
        let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    }

    fn reaches(&self, address: &str) {
        let script = format!("wget -q -O - http://{address}:8000/page | sha256sum");
        let said = self.pod.said(&self.id, &script);
        assert!(said.starts_with(&sha256(&noise(PAGE))), "{address}: {said}");
    }
}

pub fn pods_of_ptp_reach_the_node_and_each_other(engine: &Containerd, network: &Scratch) {
    let folder = engine.folder("ptp");
    let _server = Server::new(&folder);
    let kubelet = Kubelet::new(&engine.socket());
    let member = |name, handler| Member::new(&kubelet, &folder, name, handler);
    let before = run("ip -oneline link show");
    let by_runc = member("runc", "runc-ptp");
    let wanted = by_runc.network();
    by_runc.pod.ends();
    let has = |part: &str| wanted.iter().any(|line| line.contains(part));
    assert!(has("1380") && has("default via 10.79.0.1"), "{wanted:?}");
    let [one, two] = ["one", "two"].map(|name| member(name, "koya-ptp"));
    for this in [&one, &two] {
        assert_eq!(this.network(), wanted);
        this.reaches("10.79.0.1");
    }
    one.reaches(&two.pod.address());
    two.reaches(&one.pod.address());
    for this in [one, two] {
        this.pod.ends();
    }
    assert_eq!(run("ip -oneline link show"), before);
    let reserved = fs::read_dir(network.path("ptp/koya-ptp")).unwrap().flatten();
    let reserved: Vec<_> = reserved
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("10."))
        .collect();
    assert!(reserved.is_empty(), "{reserved:?}");
    engine.is_clean("something is left of pods of ptp");
}

pub fn a_device_of_the_node_goes_and_comes_back(engine: &Containerd) {
    run(&format!(
        "ip link add {DEVICE} mtu 1450 type veth peer name {FAR}"
    ));
    run(&format!("ip link set {FAR} mtu 1450 up"));
    run(&format!("ip address add 10.80.0.1/24 dev {FAR}"));
    let folder = engine.folder("device");
    let _server = Server::new(&folder);
    let kubelet = Kubelet::new(&engine.socket());
    let [by_runc, by_koya] = ["runc-device", "koya-device"].map(|handler| {
        let member = Member::new(&kubelet, &folder, handler, handler);
        let mut network = member.network();
        network.push(member.pod.said(&member.id, "cat /sys/class/net/eth0/address"));
        member.reaches("10.80.0.1");
        assert!(!fs::exists(format!("/sys/class/net/{DEVICE}")).unwrap());
        member.pod.ends();
        let after = [
            format!("ip -details address show dev {DEVICE}"),
            format!("tc qdisc show dev {DEVICE}"),
            "ip -oneline link show type tun".to_owned(),
        ];
        (network, after.map(|line| run(&line)))
    });
    assert_eq!(by_koya, by_runc);
    let has = |part: &str| by_koya.0.iter().any(|line| line.contains(part));
    assert!(has("1450") && has("192.0.2.0/24 via 10.80.0.9"), "{by_koya:?}");
    engine.is_clean("something is left of a pod with a device");
}
