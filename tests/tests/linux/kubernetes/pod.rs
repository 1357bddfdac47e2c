//! A pod, and what is done with it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::kubelet::Kubelet;
use crate::support::{LoopDevice, MIB, pids_of, run, until};

/// The image of a pod's first container, and that of the others.
pub const PAUSE: &str = "localhost/pause:1";
pub const IMAGE: &str = "docker.io/library/busybox:1";
/// `CONTAINER_RUNNING` and `CONTAINER_EXITED` of the interface.
const RUNNING: u64 = 1;
const EXITED: u64 = 2;
/// `NamespaceMode`: the pod's, and each container's own.
const OF_POD: u64 = 0;
const OF_CONTAINER: u64 = 1;

/// Serves what is in /data.
const SERVER: &str = "echo begun; echo wrong >&2; httpd -p 8000 -h /data; exec sleep 100000";

pub struct Pod<'a> {
    kubelet: &'a Kubelet,
    id: String,
    config: Value,
    folder: PathBuf,
    web: String,
    side: String,
}

impl<'a> Pod<'a> {
    /// A pod with an init container and two others; its logs and volumes are in `folder`.
    pub fn run(kubelet: &'a Kubelet, folder: PathBuf, name: &str) -> Self {
        for part in ["data", "config"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        fs::write(folder.join("config/key"), "one\n").unwrap();
        let config = json!({
            "metadata": { "name": name, "uid": format!("{name}-uid"), "namespace": "default", "attempt": 0 },
            "hostname": format!("{name}-0"), "log_directory": folder,
            "linux": {
                "security_context": { "namespace_options": { "network": OF_POD, "pid": OF_CONTAINER, "ipc": OF_POD } },
                // What a kubelet has added up of the containers' limits.
                "resources": { "cpu_period": 100_000, "cpu_quota": 200_000, "memory_limit_in_bytes": 600 << 20 },
            },
        });
        let request = json!({ "config": config, "runtime_handler": "koya" });
        let id = kubelet.done("RunPodSandbox", request)["pod_sandbox_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut pod = Self {
            kubelet,
            id,
            config,
            folder,
            web: String::new(),
            side: String::new(),
        };
        let init = pod.begin("init", 0, "echo made before > /data/page; exit 0", OF_CONTAINER);
        until("the init container does not end", || {
            pod.state(&init) == (EXITED, 0)
        });
        pod.web = pod.begin("web", 0, SERVER, OF_CONTAINER);
        pod.side = pod.begin("side", 0, "exec sleep 100000", OF_CONTAINER);
        pod
    }

    /// Creates and starts a container; its id.
    fn begin(&self, name: &str, attempt: u32, script: &str, pid: u64) -> String {
        self.begin_with(name, attempt, script, pid, json!([]))
    }

    /// The same, with devices of the node.
    fn begin_with(&self, name: &str, attempt: u32, script: &str, pid: u64, devices: Value) -> String {
        let mount = |name: &str, readonly: bool| json!({ "container_path": format!("/{name}"), "host_path": self.folder.join(name), "readonly": readonly });
        let options = json!({ "network": OF_POD, "pid": pid, "ipc": OF_POD });
        let config = json!({
            "metadata": { "name": name, "attempt": attempt }, "image": { "image": IMAGE },
            "command": ["sh", "-c", script], "log_path": format!("{name}.{attempt}.log"),
            "mounts": [mount("data", false), mount("config", true)], "devices": devices,
            "linux": {
                "resources": { "memory_limit_in_bytes": 128 << 20 },
                "security_context": { "namespace_options": options },
            },
        });
        let request = json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        let created = self.kubelet.done("CreateContainer", request);
        let id = created["container_id"].as_str().unwrap().to_owned();
        self.kubelet.done("StartContainer", json!({ "container_id": id }));
        id
    }

    /// What a container does, and its exit code.
    fn state(&self, id: &str) -> (u64, i64) {
        let status = self
            .kubelet
            .done("ContainerStatus", json!({ "container_id": id }));
        let status = &status["status"];
        (
            status["state"].as_u64().unwrap(),
            status["exit_code"].as_i64().unwrap(),
        )
    }

    /// What a script says in a container, and its exit code: `kubectl exec`, and probes.
    fn exec(&self, id: &str, script: &str) -> (String, i64) {
        let request = json!({ "container_id": id, "cmd": ["sh", "-c", script], "timeout": 60 });
        let said = self.kubelet.done("ExecSync", request);
        (
            said["stdout"].as_str().unwrap().to_owned(),
            said["exit_code"].as_i64().unwrap(),
        )
    }

    fn in_side(&self, script: &str) -> String {
        let side = self.side.clone();
        let (out, code) = self.exec(&side, script);
        assert_eq!(code, 0, "{script}: {out}");
        out
    }

    fn in_web(&self, script: &str) -> String {
        let web = self.web.clone();
        self.exec(&web, script).0
    }

    /// Network, host name, memory, volumes and the kernel.
    pub fn containers_share_what_is_the_pods(&self) {
        const PAGE: &str = "wget -q -O - http://127.0.0.1:8000/page";
        assert_eq!(self.in_side(PAGE), "made before\n");
        assert_eq!(self.in_side("hostname"), "web-0\n");
        self.in_web("echo shared > /dev/shm/note");
        assert_eq!(self.in_side("cat /dev/shm/note"), "shared\n");
        let boot = "cat /proc/sys/kernel/random/boot_id";
        let inside = self.in_side(boot);
        assert_eq!(inside, self.in_web(boot));
        assert_ne!(
            inside,
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap()
        );
        assert_eq!(pids_of("koya-vmm").len(), 1);
        // Processes are each one's own.
        assert_eq!(self.in_side("cat /proc/1/comm"), "sleep\n");
        assert_eq!(self.in_side("ps | grep -c '[h]ttpd' || true"), "0\n");
        // The node reaches the pod at its address.
        let status = self
            .kubelet
            .done("PodSandboxStatus", json!({ "pod_sandbox_id": self.id }));
        let ip = status["status"]["network"]["ip"].as_str().unwrap().to_owned();
        let address = format!("http://{ip}:8000/page");
        let said = Command::new("curl")
            .args(["--silent", "--max-time", "30", &address])
            .output()
            .unwrap();
        assert_eq!(said.stdout, b"made before\n", "{ip}");
        // As a kubelet updates a ConfigMap: a whole new file in the place of the old one.
        assert_eq!(
            self.in_side("cat /config/key; touch /config/x 2> /dev/null || echo refused"),
            "one\nrefused\n"
        );
        let config = self.folder.join("config");
        fs::write(config.join("next"), "two\n").unwrap();
        fs::rename(config.join("next"), config.join("key")).unwrap();
        until("an update is not seen", || {
            self.in_side("cat /config/key") == "two\n"
        });
        // One that sees the processes of another, as kubectl debug's do.
        let other = self.begin("debug", 0, "exec sleep 100000", OF_POD);
        let (all, _) = self.exec(&other, "ps");
        assert!(
            all.lines().filter(|line| line.contains("sleep 100000")).count() >= 2,
            "{all}"
        );
        self.kubelet
            .done("RemoveContainer", json!({ "container_id": other }));
    }

    pub fn probes_and_limits(&self) {
        let side = self.side.clone();
        assert_eq!(
            self.exec(&side, "echo not ready; exit 3"),
            ("not ready\n".to_owned(), 3)
        );
        let slow = json!({ "container_id": side, "cmd": ["sleep", "1000"], "timeout": 1 });
        let (code, message) = self.kubelet.call("ExecSync", &slow).unwrap_err();
        assert!(
            code == "DEADLINE_EXCEEDED" || message.contains("timed out"),
            "{code}: {message}"
        );
        until("a probe that took too long goes on", || {
            self.in_side("ps | grep -c '[s]leep 1000$' || true") == "0\n"
        });
        // Two processors, and the limits of all with what the kernel needs.
        assert_eq!(self.in_side("grep -c ^processor /proc/cpuinfo"), "2\n");
        let memory = self.in_side("grep MemTotal /proc/meminfo | tr -dc 0-9");
        let memory: u64 = memory.trim().parse().unwrap();
        assert!((600 << 10..700 << 10).contains(&memory), "{memory} KiB");
        assert_eq!(
            self.in_side("cat /sys/fs/cgroup/memory.max"),
            format!("{}\n", 128 << 20)
        );
        let limits = json!({ "container_id": side, "linux": { "memory_limit_in_bytes": 64 << 20 } });
        self.kubelet.done("UpdateContainerResources", limits);
        assert_eq!(
            self.in_side("cat /sys/fs/cgroup/memory.max"),
            format!("{}\n", 64 << 20)
        );
        let stats = self
            .kubelet
            .done("ContainerStats", json!({ "container_id": side }));
        let used = stats["stats"]["memory"]["working_set_bytes"]["value"]
            .as_u64()
            .unwrap();
        assert!((4096..64 << 20).contains(&used), "{stats}");
        let log = fs::read_to_string(self.folder.join("web.0.log")).unwrap();
        let said = |stream: &str, text: &str| {
            log.lines()
                .any(|line| line.ends_with(&format!(" {stream} F {text}")))
        };
        assert!(said("stdout", "begun") && said("stderr", "wrong"), "{log}");
    }

    /// As a kubelet does it after a crash: the old one is removed, a new one is begun in its place.
    pub fn a_container_is_restarted(&mut self) {
        let web = self.web.clone();
        self.kubelet
            .done("StopContainer", json!({ "container_id": web, "timeout": 1 }));
        until("the end is not seen", || self.state(&web).0 == EXITED);
        assert_eq!(self.state(&web).1, 137);
        let side = self.side.clone();
        assert_eq!(self.state(&side).0, RUNNING);
        let (_, code) = self.exec(&side, "wget -q -O - http://127.0.0.1:8000/page");
        assert_ne!(code, 0, "what was killed still serves");
        self.kubelet
            .done("RemoveContainer", json!({ "container_id": web }));
        self.web = self.begin("web", 1, SERVER, OF_CONTAINER);
        until("the new one does not serve", || {
            self.exec(&side, "wget -q -O - http://127.0.0.1:8000/page").0 == "made before\n"
        });
        assert_eq!(pids_of("koya-vmm").len(), 1);
    }

    /// As a kubelet has it for a claim with `volumeMode: Block`. It is the pod's as long as its container.
    pub fn a_raw_block_volume_is_a_disk(&self) {
        run("modprobe loop");
        let file = self.folder.join("disk");
        fs::File::create(&file).unwrap().set_len(MIB).unwrap();
        let device = LoopDevice::of(&file);
        let devices =
            json!([{ "container_path": "/dev/data", "host_path": device.path(), "permissions": "rwm" }]);
        let script = "echo from the pod | dd of=/dev/data bs=512 seek=3 conv=fsync; exec sleep 100000";
        let id = self.begin_with("disk", 0, script, OF_CONTAINER, devices);
        until("nothing is written", || {
            fs::read(&file).unwrap()[1536..].starts_with(b"from the pod\n")
        });
        let [vmm] = pids_of("koya-vmm")[..] else {
            panic!("the pod is one microVM")
        };
        let is_open = || {
            let files = fs::read_dir(format!("/proc/{vmm}/fd")).unwrap().flatten();
            let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
            files.any(|file| file.as_os_str() == device.path())
        };
        assert!(is_open());
        self.kubelet
            .done("StopContainer", json!({ "container_id": id, "timeout": 0 }));
        until("the end is not seen", || self.state(&id).0 == EXITED);
        self.kubelet
            .done("RemoveContainer", json!({ "container_id": id }));
        until("the microVM keeps the device", || !is_open());
    }

    pub fn ends(self) {
        let pod = json!({ "pod_sandbox_id": self.id });
        self.kubelet.done("StopPodSandbox", pod.clone());
        assert!(pids_of("koya-vmm").is_empty());
        self.kubelet.done("RemovePodSandbox", pod);
    }
}
