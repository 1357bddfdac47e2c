//! What is put comes back, and can be changed while the guest runs.

use koya_api::http::Method;
use koya_tests::vm::{Scratch, Vm};
use serde_json::{Value, json};

use crate::support::{Monitor, Netns, boot, drive, interface};

/// Everything in `part` is in `whole`, too.
fn assert_contains(whole: &Value, part: &Value) {
    match part {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, member)| assert_contains(&whole[name], member)),
        part => assert_eq!(whole, part),
    }
}

/// `GET /vm/config` tells what was put, before and after the start, and is itself a config file that works.
#[test]
fn vm_config_is_what_was_put() {
    let (netns, scratch) = (Netns::with_tap(), Scratch::new());
    let monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let limits =
        json!({ "bandwidth": { "size": 1_000_000, "one_time_burst": 7, "refill_time": 100 }, "ops": null });
    let (root, data) = (scratch.disk("root", 4096), scratch.disk("data", 8192));
    let mut first = drive("root_fs", &root, true);
    first["is_read_only"] = json!(true);
    first["partuuid"] = json!("0eaa91a0-01");
    let mut second = drive("data", &data, false);
    second["rate_limiter"] = limits.clone();
    second["cache_type"] = json!("Writeback");
    second["io_engine"] = json!("Async");
    let mut eth0 = interface("eth0", "tap0");
    eth0["guest_mac"] = json!("06:00:ac:10:00:02");
    eth0["rx_rate_limiter"] = limits.clone();
    let sections = [
        (
            "/machine-config",
            "machine-config",
            json!({ "vcpu_count": 2, "mem_size_mib": 256, "smt": true }),
        ),
        ("/boot-source", "boot-source", boot("virtio", "quiet")),
        ("/entropy", "entropy", json!({ "rate_limiter": limits })),
        (
            "/vsock",
            "vsock",
            json!({ "guest_cid": 42, "uds_path": scratch.path("v.sock") }),
        ),
        (
            "/serial",
            "serial",
            json!({ "serial_out_path": scratch.path("serial") }),
        ),
        (
            "/metrics",
            "metrics",
            json!({ "metrics_path": scratch.path("metrics"), "emit_id": true }),
        ),
        (
            "/logger",
            "logger",
            json!({ "log_path": scratch.path("log"), "level": "Error", "show_level": true }),
        ),
    ];
    for (path, _, body) in &sections {
        monitor.done(Method::Put, path, body);
    }
    // The root drive comes first for the guest, whenever it is put.
    monitor.done(Method::Put, "/drives/data", &second);
    monitor.done(Method::Put, "/drives/root_fs", &first);
    monitor.done(Method::Put, "/network-interfaces/eth0", &eth0);

    let before = monitor.get("/vm/config");
    for (_, key, body) in &sections {
        assert_contains(&before[key], body);
    }
    assert_contains(&before["drives"][0], &first);
    assert_contains(&before["drives"][1], &second);
    assert_contains(&before["network-interfaces"][0], &eth0);
    assert_contains(&monitor.get("/machine-config"), &sections[0].2);
    monitor.act("InstanceStart");
    assert_eq!(monitor.get("/vm/config"), before);
    monitor.terminate();

    // The same again, from a file.
    let file = scratch.file("vm.json", before.to_string());
    let mut command = netns.monitor();
    command.args(["--no-api", "--config-file"]).arg(file);
    let mut again = Vm::spawn(command);
    again.expect_exit(0);
    let serial = std::fs::read_to_string(scratch.path("serial")).unwrap();
    assert!(
        serial.contains("virtio: devices: 5\nblock: sectors: 8, read-only\n"),
        "{serial}"
    );
}

#[test]
fn a_microvm_of_a_config_file_can_be_controlled_through_the_api() {
    let scratch = Scratch::new();
    let file = scratch.file(
        "vm.json",
        crate::support::config("echo", "", json!({})).to_string(),
    );
    let mut monitor = Monitor::with(&["--config-file", file.to_str().unwrap(), "--id", "from-a-file"]);
    monitor.vm.expect("echo: ready");
    let instance = monitor.get("/");
    assert_eq!(
        (&instance["id"], &instance["state"]),
        (&json!("from-a-file"), &json!("Running"))
    );
    monitor.change_state("Paused");
    monitor.vm.type_in(b"q").unwrap();
    monitor.change_state("Resumed");
    monitor.vm.expect_exit(0);
    monitor.assert_no_socket();
}

#[test]
fn the_id_is_in_the_answer_and_has_a_default() {
    let named = Monitor::with(&["--id", "web-1"]);
    assert_eq!(named.get("/")["id"], "web-1");
    let anonymous = Monitor::start();
    let instance = anonymous.get("/");
    assert_eq!(instance["id"], "anonymous-instance");
    assert_eq!(instance["state"], "Not started");
    assert_eq!(
        instance["vmm_version"],
        anonymous.get("/version")["firecracker_version"]
    );
}

/// A machine configuration is replaced by PUT and amended by PATCH; a PATCH that is refused changes nothing.
#[test]
fn the_machine_configuration_is_patched_as_a_whole_or_not_at_all() {
    let monitor = Monitor::start();
    assert_contains(
        &monitor.get("/machine-config"),
        &json!({ "vcpu_count": 1, "mem_size_mib": 128 }),
    );
    let put = json!({ "vcpu_count": 4, "mem_size_mib": 256, "track_dirty_pages": true });
    monitor.done(Method::Put, "/machine-config", &put);
    monitor.done(Method::Patch, "/machine-config", &json!({ "mem_size_mib": 512 }));
    monitor.refused(
        Method::Patch,
        "/machine-config",
        r#"{"mem_size_mib":1024,"vcpu_count":33}"#,
    );
    monitor.refused(Method::Patch, "/machine-config", "{}");
    let expected = json!({ "vcpu_count": 4, "mem_size_mib": 512, "track_dirty_pages": true });
    assert_contains(&monitor.get("/machine-config"), &expected);
    monitor.done(
        Method::Put,
        "/machine-config",
        &json!({ "vcpu_count": 1, "mem_size_mib": 64 }),
    );
    assert_eq!(monitor.get("/machine-config")["track_dirty_pages"], false);
}

/// `PATCH /drives` swaps the file under a running guest, which reads the new one and writes to it.
#[test]
fn a_drive_gets_another_file_under_a_running_guest() {
    let scratch = Scratch::new();
    let old = scratch.file("old", text_disk("the old file", 8));
    let new = scratch.file("new", text_disk("the new file", 32));
    let mut monitor = Monitor::start();
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &old, false));
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready\n");
    monitor.vm.type_in(b"x").unwrap();
    monitor
        .vm
        .expect("block: sectors: 8\nblock: sector 0: the old file");
    let old_contents = std::fs::read(&old).unwrap();

    let mut update = json!({ "drive_id": "vda", "path_on_host": scratch.path("none") });
    let message = monitor.refused(Method::Patch, "/drives/vda", &update.to_string());
    assert!(message.contains("does not exist"), "{message}");
    assert_eq!(monitor.get("/vm/config")["drives"][0]["path_on_host"], json!(old));
    monitor.vm.type_in(b"x").unwrap();
    monitor.vm.expect("tour: ready\nblock: sectors: 8\n");

    update["path_on_host"] = json!(new);
    monitor.done(Method::Patch, "/drives/vda", &update);
    assert_eq!(monitor.get("/vm/config")["drives"][0]["path_on_host"], json!(new));
    monitor.vm.type_in(b"x").unwrap();
    monitor
        .vm
        .expect("block: sectors: 32\nblock: sector 0: the new file");
    monitor.vm.expect("block: the same bytes\ntour: ready\n");
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
    assert_eq!(
        std::fs::read(&old).unwrap(),
        old_contents,
        "the old file is let go"
    );
    assert_ne!(
        std::fs::read(&new).unwrap()[31 * 512..],
        [0; 512],
        "the guest wrote to the new one"
    );
}

/// A disk of so many sectors that begins with a text.
fn text_disk(text: &str, sectors: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(sectors * 512, 0);
    bytes
}

/// A read-only drive stays so: the guest cannot write to it, nor to a file that takes its place.
#[test]
fn a_read_only_drive_is_not_written_to() {
    let scratch = Scratch::new();
    let old = scratch.file("old", text_disk("precious", 8));
    let new = scratch.file("new", text_disk("precious", 8));
    let mut monitor = Monitor::start();
    let mut vda = drive("vda", &old, false);
    vda["is_read_only"] = json!(true);
    monitor.done(Method::Put, "/drives/vda", &vda);
    monitor.boot("tour", "");
    for (path, count) in [(&old, 1), (&new, 2)] {
        monitor.done(
            Method::Patch,
            "/drives/vda",
            &json!({ "drive_id": "vda", "path_on_host": path }),
        );
        monitor.vm.type_in(b"x").unwrap();
        let refusals = || monitor.vm.console.text().matches("block: write: refused").count();
        while refusals() < count {
            monitor.vm.expect("block: write: ");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
    for path in [old, new] {
        assert_eq!(std::fs::read(path).unwrap(), text_disk("precious", 8));
    }
}
