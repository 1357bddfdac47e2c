//! What a pod cannot have: the reason where a kubelet looks for it, with the code that says whose fault it is, and nothing left.

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, container, pod};
use crate::support::pids_of;

pub fn what_a_guest_cannot_have_is_refused(this: &Sandbox<'_>) {
    let before = processes();
    let refused = |method: &str, request: &Value, code: &str, words: &[&str]| {
        let (told, message) = this.kubelet.call(method, request).unwrap_err();
        println!("{method}: {told}: {message}");
        assert_eq!(told, code, "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?}: {message}");
        }
    };
    for (option, words) in [
        ("network", "the host's network"),
        ("pid", "the host's processes"),
        ("ipc", "hostIPC"),
    ] {
        let mut config = pod("hosts", &this.folder);
        config["linux"]["security_context"]["namespace_options"][option] = json!(2);
        let request = json!({ "config": config, "runtime_handler": "koya" });
        refused("RunPodSandbox", &request, "INVALID_ARGUMENT", &[words]);
    }
    let socket = this.folder.join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let cases = [
        (
            "mounts",
            json!([{ "container_path": "/socket", "host_path": socket }]),
            "INVALID_ARGUMENT",
            "/socket",
        ),
        (
            "devices",
            json!([{ "container_path": "/dev/kvm", "host_path": "/dev/kvm", "permissions": "rwm" }]),
            "INVALID_ARGUMENT",
            "\"/dev/kvm\"",
        ),
        (
            "command",
            json!(["no-such-program"]),
            "INVALID_ARGUMENT",
            "no-such-program",
        ),
    ];
    for (number, (field, value, code, word)) in cases.into_iter().enumerate() {
        let mut config = container(&format!("refused{number}"), "true");
        config[field] = value;
        let request = json!({ "container_id": this.create(&config) });
        refused("StartContainer", &request, code, &[word]);
        this.kubelet.done("RemoveContainer", request);
    }
    // They have left nothing, and disturb nobody.
    assert_eq!(processes(), before);
    let id = this.begin(&container("after", "exec sleep 100000"));
    assert_eq!(this.said(&id, "echo there"), "there\n");
}

/// How many there are of each kind.
fn processes() -> [usize; 4] {
    ["koya-vmm", "virtiofsd", "koya-monitor", "koya-container"].map(|name| pids_of(name).len())
}
