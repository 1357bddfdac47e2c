//! A pod to put containers into.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::pod::IMAGE;
use super::stream::Stream;

pub struct Sandbox<'a> {
    pub kubelet: &'a Kubelet,
    pub id: String,
    /// Where its logs are.
    pub folder: PathBuf,
    config: Value,
}

/// What a kubelet asks for a pod. It has a network and an IPC namespace, its containers have processes of their own.
pub fn pod(name: &str, folder: &std::path::Path) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("{name}-uid"), "namespace": "default", "attempt": 0 },
        "hostname": name, "log_directory": folder,
        "linux": { "security_context": { "namespace_options": { "network": 0, "pid": 1, "ipc": 0 } } },
    })
}

/// What it asks for a container that runs a script.
pub fn container(name: &str, script: &str) -> Value {
    json!({
        "metadata": { "name": name, "attempt": 0 }, "image": { "image": IMAGE },
        "command": ["sh", "-c", script], "log_path": format!("{name}.log"),
        "linux": { "security_context": { "namespace_options": { "network": 0, "pid": 1, "ipc": 0 } } },
    })
}

impl<'a> Sandbox<'a> {
    /// Runs one, by the handler of a runtime class.
    pub fn run(kubelet: &'a Kubelet, folder: PathBuf, config: Value, handler: &str) -> Self {
        let request = json!({ "config": config, "runtime_handler": handler });
        let id = kubelet.done("RunPodSandbox", request)["pod_sandbox_id"]
            .as_str()
            .unwrap()
            .to_owned();
        Self {
            kubelet,
            id,
            folder,
            config,
        }
    }

    /// Creates a container; its id.
    pub fn create(&self, container: &Value) -> String {
        let request =
            json!({ "pod_sandbox_id": self.id, "config": container, "sandbox_config": self.config });
        let created = self.kubelet.done("CreateContainer", request);
        created["container_id"].as_str().unwrap().to_owned()
    }

    /// The same, and starts it.
    pub fn begin(&self, container: &Value) -> String {
        let id = self.create(container);
        self.kubelet.done("StartContainer", json!({ "container_id": id }));
        id
    }

    /// What a container does, and its exit code.
    pub fn state(&self, id: &str) -> (u64, i64) {
        let status = self
            .kubelet
            .done("ContainerStatus", json!({ "container_id": id }));
        let status = &status["status"];
        (
            status["state"].as_u64().unwrap(),
            status["exit_code"].as_i64().unwrap(),
        )
    }

    /// What a script says in a container; it has to succeed.
    pub fn said(&self, id: &str, script: &str) -> String {
        let request = json!({ "container_id": id, "cmd": ["sh", "-c", script], "timeout": 120 });
        let said = self.kubelet.done("ExecSync", request);
        assert_eq!(said["exit_code"], 0, "{script}: {said}");
        said["stdout"].as_str().unwrap().to_owned()
    }

    /// A process of its own in a container, and its streams.
    pub fn exec(&self, how: &str, id: &str, words: &[&str], tty: bool) -> Stream {
        self.speak(how, "Exec", id, tty, json!({ "cmd": words }))
    }

    /// The streams of a container.
    pub fn attach(&self, how: &str, id: &str, tty: bool) -> Stream {
        self.speak(how, "Attach", id, tty, json!({}))
    }

    fn speak(&self, how: &str, method: &str, id: &str, tty: bool, mut request: Value) -> Stream {
        // A terminal has no errors of its own.
        let streams = match tty {
            true => ["stdin", "stdout", "resize"],
            false => ["stdin", "stdout", "stderr"],
        };
        for stream in streams.iter().filter(|stream| **stream != "resize") {
            request[stream] = json!(true);
        }
        request["container_id"] = json!(id);
        request["tty"] = json!(tty);
        let url = self.kubelet.done(method, request);
        Stream::open(how, url["url"].as_str().unwrap(), &streams)
    }

    /// A connection to a port, as it is forwarded.
    pub fn forward(&self, port: u16) -> Stream {
        let request = json!({ "pod_sandbox_id": self.id, "port": [port] });
        let url = self.kubelet.done("PortForward", request);
        Stream::open("forward", url["url"].as_str().unwrap(), &[&port.to_string()])
    }

    /// Its address.
    pub fn address(&self) -> String {
        let request = json!({ "pod_sandbox_id": self.id });
        let status = self.kubelet.done("PodSandboxStatus", request);
        status["status"]["network"]["ip"].as_str().unwrap().to_owned()
    }

    /// What a container has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap()
    }

    pub fn ends(self) {
        let pod = json!({ "pod_sandbox_id": self.id });
        self.kubelet.done("StopPodSandbox", pod.clone());
        self.kubelet.done("RemovePodSandbox", pod);
    }
}
