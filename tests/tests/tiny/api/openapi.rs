//! "An `openapi.yaml` of our own, checked by a test against what the server really answers."

use std::collections::BTreeSet;

use koya_api::client::ClientResponse;
use koya_api::http::Method;
use koya_tests::vm::Scratch;
use serde_json::{Value, json};

use crate::support::schema::Description;
use crate::support::vhost_user;
use crate::support::{Monitor, Netns, boot, drive, interface};

/// Sends requests, and checks every response against the description.
struct Witness {
    monitor: Monitor,
    description: Description,
    succeeded: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl Witness {
    fn send(&mut self, method: Method, template: &str, id: &str, body: Option<&Value>) -> ClientResponse {
        let path = ["{drive_id}", "{iface_id}", "{folder_id}"]
            .iter()
            .fold(template.to_owned(), |path, place| path.replace(place, id));
        let text = body.map(Value::to_string);
        let response = self.monitor.request(method, &path, text.as_deref());
        let operation = format!("{} {template}", method.as_str());
        self.description.check(&operation, &response);
        let outcome = if response.is_success() {
            &mut self.succeeded
        } else {
            &mut self.refused
        };
        outcome.insert(operation);
        response
    }

    /// A request that works.
    fn works(&mut self, method: Method, template: &str, id: &str, body: Option<&Value>) {
        let response = self.send(method, template, id, body);
        assert!(
            response.is_success(),
            "{method:?} {template} {body:?}: {response:?}"
        );
    }

    fn reads(&mut self) {
        for path in ["/", "/version", "/vm/config", "/machine-config"] {
            self.works(Method::Get, path, "", None);
        }
    }

    /// The same path with a body that is none.
    fn is_refused(&mut self, method: Method, template: &str) {
        let response = self.send(method, template, "a1", Some(&json!("nonsense")));
        assert_eq!(response.status, 400, "{method:?} {template}");
    }
}

const DRIVE: &str = "/drives/{drive_id}";
const INTERFACE: &str = "/network-interfaces/{iface_id}";
const FOLDER: &str = "/shared-folders/{folder_id}";

#[test]
fn the_real_server_answers_as_openapi_yaml_says() {
    let (netns, scratch) = (Netns::with_tap(), Scratch::new());
    let description = Description::read();
    let operations = description.operations();
    let mut witness = Witness {
        monitor: Monitor::within(netns.monitor(), Scratch::new(), &[]),
        description,
        succeeded: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    let file = |name: &str| scratch.path(name);
    let limits = json!({
        "bandwidth": { "size": 1_000_000, "one_time_burst": 5, "refill_time": 100 },
        "ops": { "size": 1000, "refill_time": 100 },
    });
    let disk = scratch.disk("disk", 1 << 20);
    let mut vda = drive("vda", &disk, true);
    vda["rate_limiter"] = limits.clone();
    vda["partuuid"] = json!("0eaa91a0-01");
    vda["cache_type"] = json!("Writeback");
    vda["io_engine"] = json!("Sync");
    vda["is_read_only"] = json!(false);
    let mut eth0 = interface("eth0", "tap0");
    eth0["guest_mac"] = json!("06:00:ac:10:00:02");
    eth0["mtu"] = json!(1500);
    eth0["rx_rate_limiter"] = limits.clone();
    eth0["tx_rate_limiter"] = limits.clone();

    witness.reads();
    for operation in &operations {
        let (method, template) = operation.split_once(' ').unwrap();
        match method {
            "PUT" => witness.is_refused(Method::Put, template),
            "PATCH" => witness.is_refused(Method::Patch, template),
            // A GET has no body.
            _ => witness.is_refused(Method::Get, template),
        }
    }
    let machine = json!({ "vcpu_count": 2, "mem_size_mib": 128, "smt": true, "track_dirty_pages": true,
                          "huge_pages": "None", "cpu_template": "None" });
    let metrics = json!({ "metrics_path": file("metrics"), "emit_id": true, "properties": { "a": "b" } });
    let logger = json!({ "log_path": file("log"), "level": "Warning", "show_level": true, "show_log_origin": true,
                         "module": "koya" });
    for (template, id, body) in [
        ("/machine-config", "", machine),
        ("/boot-source", "", boot("tour", "console=ttyS0")),
        (DRIVE, "vda", vda),
        (INTERFACE, "eth0", eth0),
        (
            FOLDER,
            "src",
            json!({ "folder_id": "src", "tag": "source", "socket": vhost_user::serve(file("fs.sock")) }),
        ),
        ("/entropy", "", json!({ "rate_limiter": limits })),
        (
            "/vsock",
            "",
            json!({ "guest_cid": 3, "uds_path": file("v.sock") }),
        ),
        (
            "/serial",
            "",
            json!({ "serial_out_path": file("serial"), "rate_limiter": null }),
        ),
        ("/metrics", "", metrics),
        ("/logger", "", logger),
    ] {
        witness.works(Method::Put, template, id, Some(&body));
        witness.reads();
    }
    witness.works(
        Method::Patch,
        "/machine-config",
        "",
        Some(&json!({ "vcpu_count": 1, "smt": false })),
    );
    witness.works(
        Method::Put,
        "/actions",
        "",
        Some(&json!({ "action_type": "InstanceStart" })),
    );
    witness.reads();
    for (method, template, id, body) in [
        (Method::Patch, "/vm", "", json!({ "state": "Paused" })),
        (
            Method::Patch,
            DRIVE,
            "vda",
            json!({ "drive_id": "vda", "path_on_host": disk, "rate_limiter": limits }),
        ),
        (
            Method::Patch,
            INTERFACE,
            "eth0",
            json!({ "iface_id": "eth0", "rx_rate_limiter": limits }),
        ),
        (
            Method::Put,
            "/actions",
            "",
            json!({ "action_type": "FlushMetrics" }),
        ),
        (
            Method::Put,
            "/actions",
            "",
            json!({ "action_type": "SendCtrlAltDel" }),
        ),
        (Method::Patch, "/vm", "", json!({ "state": "Resumed" })),
    ] {
        witness.works(method, template, id, Some(&body));
        witness.reads();
    }
    // Of a guest without a shared folder, which cannot be frozen.
    witness.monitor = Monitor::running("echo", "");
    let pause = json!({ "state": "Paused" });
    witness.works(Method::Patch, "/vm", "", Some(&pause));
    let (state, memory) = (file("state"), file("memory"));
    let create = json!({ "snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory });
    witness.works(Method::Put, "/snapshot/create", "", Some(&create));
    let set = file("set");
    witness.monitor = Monitor::start();
    let load = json!({
        "snapshot_path": state,
        "mem_backend": { "backend_type": "File", "backend_path": memory },
        "track_dirty_pages": true,
        "clock_realtime": true,
        "working_set_path": set,
    });
    witness.works(Method::Put, "/snapshot/load", "", Some(&load));
    let note = json!({ "working_set_path": set });
    witness.works(Method::Put, "/snapshot/working-set", "", Some(&note));
    witness.reads();
    // Every operation was seen to work, and to be refused.
    assert_eq!(witness.succeeded, operations);
    assert_eq!(witness.refused, operations);
}
