//! "Every device has a versioned `State` with save and restore"; snapshots as Firecracker's API makes and loads them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use koya_api::http::Method;
use koya_tests::vm::{Scratch, Vm};
use serde_json::{Value, json};

use crate::support::{Monitor, Netns, config, drive, interface, vhost_user};

/// Bytes of the guests' memory here.
const MEMORY: u64 = 128 << 20;

/// The two files of a snapshot.
struct Files {
    scratch: Scratch,
}

impl Files {
    fn new() -> Self {
        Self {
            scratch: Scratch::new(),
        }
    }

    fn state(&self) -> PathBuf {
        self.scratch.path("state")
    }

    fn memory(&self) -> PathBuf {
        self.scratch.path("memory")
    }

    fn create(&self) -> Value {
        json!({ "snapshot_path": self.state(), "mem_file_path": self.memory() })
    }

    /// Freezes the guest of `monitor` and writes it down.
    fn take(&self, monitor: &Monitor) {
        monitor.change_state("Paused");
        monitor.done(Method::Put, "/snapshot/create", &self.create());
    }

    fn load(&self, more: &Value) -> Value {
        let mut load = json!({
            "snapshot_path": self.state(),
            "mem_backend": { "backend_type": "File", "backend_path": self.memory() },
        });
        let more = more.as_object().unwrap().clone();
        load.as_object_mut().unwrap().extend(more);
        load
    }

    /// A monitor whose guest goes on from here.
    fn resumed(&self) -> Monitor {
        let monitor = Monitor::start();
        monitor.done(
            Method::Put,
            "/snapshot/load",
            &self.load(&json!({ "resume_vm": true })),
        );
        monitor
    }

    /// The `snapshot` of a config file.
    fn source(&self) -> Value {
        self.load(&json!({}))
    }
}

#[test]
fn a_guest_goes_on_in_as_many_monitors_as_one_likes() {
    let files = Files::new();
    let mut original = Monitor::running("echo", "");
    original.vm.expect("echo: ready\n");
    original.vm.type_in(b"first").unwrap();
    original.vm.expect("first");
    files.take(&original);
    let mut forks = [files.resumed(), files.resumed()];
    for (fork, text) in forks.iter_mut().zip([b"one".as_slice(), b"another"]) {
        fork.vm.type_in(text).unwrap();
        fork.vm.expect(std::str::from_utf8(text).unwrap());
        // The guest does not begin anew, and what it has said has been said.
        assert!(!fork.vm.console.text().contains("ready"));
    }
    // Neither knows of the other, nor the original of both.
    assert!(!forks[0].vm.console.text().contains("another"));
    assert!(!forks[1].vm.console.text().contains("one"));
    assert_eq!(original.vm.console.text(), "echo: ready\nfirst");
    original.change_state("Resumed");
    for monitor in forks.iter_mut().chain([&mut original]) {
        monitor.vm.type_in(b"q").unwrap();
        monitor.vm.expect("echo: bye");
        monitor.vm.expect_exit(0);
    }
}

/// Memory that nobody has touched is neither written nor read.
#[test]
fn the_memory_is_a_sparse_file_for_its_owner() {
    let files = Files::new();
    let monitor = Monitor::running("echo", "");
    monitor.vm.expect("echo: ready\n");
    files.take(&monitor);
    let memory = fs::metadata(files.memory()).unwrap();
    assert_eq!((memory.len(), memory.mode() & 0o777), (MEMORY, 0o600));
    assert!(memory.blocks() * 512 < 1 << 20, "{} blocks", memory.blocks());
    assert_eq!(fs::metadata(files.state()).unwrap().mode() & 0o777, 0o600);
}

/// The guest never writes the file that others go on from.
#[test]
fn a_fork_leaves_the_snapshot_as_it_is() {
    let files = Files::new();
    let monitor = Monitor::start();
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
    files.take(&monitor);
    let before = (
        fs::read(files.memory()).unwrap(),
        fs::read(files.state()).unwrap(),
    );
    let mut fork = files.resumed();
    fork.vm.type_in(b"vq").unwrap();
    fork.vm.expect_exit(0);
    assert!(
        before
            == (
                fs::read(files.memory()).unwrap(),
                fs::read(files.state()).unwrap()
            )
    );
}

/// Whose memory is mapped by a guest: the file goes on to exist for that one.
#[test]
fn a_fork_is_frozen_into_the_files_that_it_came_from() {
    let files = Files::new();
    let original = Monitor::running("echo", "");
    original.vm.expect("echo: ready");
    files.take(&original);
    let mut first = files.resumed();
    first.vm.type_in(b"one").unwrap();
    first.vm.expect("one");
    files.take(&first);
    let mut second = files.resumed();
    first.change_state("Resumed");
    for monitor in [&mut first, &mut second] {
        monitor.vm.type_in(b"twoq").unwrap();
        monitor.vm.expect("two");
        monitor.vm.expect_exit(0);
    }
}

/// Requests that were under way when the guest was frozen are answered, and none is lost or done twice.
#[test]
fn a_device_goes_on_in_the_midst_of_requests() {
    let files = Files::new();
    let monitor = Monitor::start();
    monitor.done(Method::Put, "/entropy", &json!({}));
    monitor.boot("doorbell", "n=40000");
    monitor.vm.expect("round trip: begin");
    files.take(&monitor);
    drop(monitor);
    for _ in 0..2 {
        let mut fork = files.resumed();
        fork.vm.expect_exit(0);
        assert!(fork.vm.console.text().contains("round trip: end 10000"));
    }
}

#[test]
fn every_device_works_after_a_restore() {
    let (netns, files) = (Netns::with_tap(), Files::new());
    let disk = files.scratch.disk("disk", 1 << 20);
    let monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    monitor.done(Method::Put, "/drives/a", &drive("a", &disk, false));
    monitor.done(
        Method::Put,
        "/network-interfaces/eth0",
        &interface("eth0", "tap0"),
    );
    monitor.done(Method::Put, "/entropy", &json!({}));
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
    files.take(&monitor);
    let before = monitor.get("/vm/config");
    drop(monitor);
    let mut fork = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    fork.done(Method::Put, "/snapshot/load", &files.load(&json!({})));
    assert_eq!(fork.state(), "Paused");
    assert_eq!(fork.get("/vm/config"), before);
    fork.change_state("Resumed");
    fork.vm.type_in(b"v").unwrap();
    for said in ["block", "net", "entropy"] {
        fork.vm.expect(said);
    }
    fork.vm.type_in(b"q").unwrap();
    fork.vm.expect_exit(0);
    let said = fork.vm.console.text();
    assert!(
        !said.contains("no answer") && said.contains("the same bytes"),
        "{said}"
    );
}

#[test]
fn taps_and_sockets_can_be_others_after_a_restore() {
    let (netns, files) = (Netns::with_tap(), Files::new());
    let second = ["tuntap", "add", "tap1", "mode", "tap"];
    assert!(netns.command("ip").args(second).status().unwrap().success());
    let monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    monitor.done(
        Method::Put,
        "/network-interfaces/eth0",
        &interface("eth0", "tap1"),
    );
    let (before, after) = (files.scratch.path("a.sock"), files.scratch.path("b.sock"));
    monitor.done(
        Method::Put,
        "/vsock",
        &json!({ "guest_cid": 3, "uds_path": before }),
    );
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
    files.take(&monitor);
    let overrides = json!({
        "network_overrides": [{ "iface_id": "eth0", "host_dev_name": "tap0" }],
        "vsock_override": { "uds_path": after },
        "resume_vm": true,
    });
    let mut fork = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    fork.done(Method::Put, "/snapshot/load", &files.load(&overrides));
    assert!(before.exists() && after.exists());
    let config = fork.get("/vm/config");
    assert_eq!(config["network-interfaces"][0]["host_dev_name"], "tap0");
    fork.vm.type_in(b"vq").unwrap();
    fork.vm.expect_exit(0);
    for (field, value, what) in [
        (
            "network_overrides",
            json!([{ "iface_id": "eth1", "host_dev_name": "tap0" }]),
            "no network interface \"eth1\"",
        ),
        (
            "network_overrides",
            json!([{ "iface_id": "eth0" }]),
            "host_dev_name",
        ),
    ] {
        let refused = Monitor::start();
        let load = files.load(&json!({ field: value })).to_string();
        let fault = refused.refused(Method::Put, "/snapshot/load", &load);
        assert!(fault.contains(what), "{fault}");
    }
}

/// Devices that the snapshot does not know take windows that were empty; the guest looks for them when it likes.
#[test]
fn a_fork_may_have_more_devices() {
    let files = Files::new();
    let monitor = Monitor::start();
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "spare_devices": 2 });
    monitor.done(Method::Put, "/machine-config", &machine);
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
    files.take(&monitor);
    let fork = |more: Value| {
        let scratch = Scratch::new();
        let mut config = json!({ "snapshot": files.source() });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let vm = Vm::from_config(&scratch, &config.to_string());
        (scratch, vm)
    };
    let disk = files.scratch.disk("disk", 1 << 20);
    let (_scratch, mut vm) = fork(json!({ "entropy": {}, "drives": [drive("a", &disk, false)] }));
    vm.type_in(b"v").unwrap();
    vm.expect("block");
    vm.expect("entropy");
    vm.type_in(b"q").unwrap();
    vm.expect_exit(0);
    // One device too many.
    let drives: Vec<_> = ["a", "b", "c"].map(|id| drive(id, &disk, false)).into();
    let (_scratch, mut vm) = fork(json!({ "drives": drives }));
    vm.expect_exit(1);
    assert!(
        vm.transcript().contains("cannot set up drive \"c\""),
        "{}",
        vm.transcript()
    );
}

/// What one fork has written the next one has before it runs; it changes nothing that a guest could see.
#[test]
fn what_a_fork_has_written_others_are_given_at_once() {
    let files = Files::new();
    let monitor = Monitor::start();
    monitor.done(Method::Put, "/entropy", &json!({}));
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready");
    files.take(&monitor);
    let set = files.scratch.path("set");
    let note = json!({ "working_set_path": set });
    let mut first = files.resumed();
    first.vm.type_in(b"v").unwrap();
    first.vm.expect("entropy");
    first.done(Method::Put, "/snapshot/working-set", &note);
    let noted = fs::read_to_string(&set).unwrap();
    let pages = serde_json::from_str::<Value>(&noted).unwrap()["written"]
        .as_array()
        .unwrap()
        .len();
    // The device's rings, at least; and it has not written everything.
    assert!((1..100).contains(&pages), "{noted}");
    assert_eq!(fs::metadata(&set).unwrap().mode() & 0o777, 0o600);
    let load = files.load(&json!({ "working_set_path": set }));
    let mut second = Monitor::start();
    second.done(Method::Put, "/snapshot/load", &load);
    // It has not run yet, and has as much memory of its own as the one that has.
    second.done(Method::Put, "/snapshot/working-set", &note);
    assert_eq!(fs::read_to_string(&set).unwrap(), noted);
    second.change_state("Resumed");
    second.vm.type_in(b"v").unwrap();
    second.vm.expect("entropy");
    second.vm.type_in(b"q").unwrap();
    second.vm.expect_exit(0);
    // A config file says it as well.
    let source = files.load(&json!({ "working_set_path": set }));
    let scratch = Scratch::new();
    let config = json!({ "snapshot": source, "entropy": {} });
    let mut third = Vm::from_config(&scratch, &config.to_string());
    third.type_in(b"q").unwrap();
    third.expect_exit(0);

    // It is advice: what is none of it costs nobody his guest.
    for nonsense in [
        "{",
        "{\"written\":[[0,18446744073709551615],[18446744073709551615,1]]}",
    ] {
        fs::write(&set, nonsense).unwrap();
        let mut monitor = Monitor::start();
        monitor.done(Method::Put, "/snapshot/load", &load);
        monitor.change_state("Resumed");
        monitor.vm.type_in(b"q").unwrap();
        monitor.vm.expect_exit(0);
    }
    let fault = first.refused(
        Method::Put,
        "/snapshot/working-set",
        r#"{ "working_set_path": "/nowhere/set" }"#,
    );
    assert!(
        fault.starts_with("Working set error: cannot write \"/nowhere/set\""),
        "{fault}"
    );
}

#[test]
fn a_fork_with_a_shared_folder_shares_its_memory() {
    let files = Files::new();
    let monitor = Monitor::start();
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "spare_devices": 1 });
    monitor.done(Method::Put, "/machine-config", &machine);
    monitor.boot("echo", "");
    monitor.vm.expect("echo: ready");
    files.take(&monitor);
    let scratch = Scratch::new();
    let socket = vhost_user::serve(scratch.path("fs.sock"));
    let folder = json!({ "folder_id": "src", "tag": "source", "socket": socket });
    let config = json!({ "snapshot": files.source(), "shared-folders": [folder] });
    let mut vm = Vm::from_config(&scratch, &config.to_string());
    vm.type_in(b"still here").unwrap();
    vm.expect("still here");
    let maps = fs::read_to_string(format!("/proc/{}/maps", vm.pid())).unwrap();
    assert!(maps.contains("memfd:guest-memory"), "{maps}");
    vm.type_in(b"q").unwrap();
    vm.expect_exit(0);
}

#[test]
fn what_cannot_be_frozen_is_refused() {
    let files = Files::new();
    let monitor = Monitor::start();
    let create = files.create().to_string();
    let fault = monitor.refused(Method::Put, "/snapshot/create", &create);
    assert!(fault.contains("not supported before starting"), "{fault}");
    let socket = vhost_user::serve(files.scratch.path("fs.sock"));
    let folder = json!({ "folder_id": "src", "tag": "source", "socket": socket });
    monitor.done(Method::Put, "/shared-folders/src", &folder);
    monitor.boot("spin", "");
    let fault = monitor.refused(Method::Put, "/snapshot/create", &create);
    assert!(fault.contains("pause it first"), "{fault}");
    monitor.change_state("Paused");
    let fault = monitor.refused(Method::Put, "/snapshot/create", &create);
    assert!(fault.contains("shared folders"), "{fault}");
    assert!(!files.memory().exists() && !files.state().exists());

    let monitor = Monitor::running("spin", "");
    monitor.change_state("Paused");
    let nowhere = json!({ "snapshot_path": "/nowhere/s", "mem_file_path": files.memory() }).to_string();
    let fault = monitor.refused(Method::Put, "/snapshot/create", &nowhere);
    assert!(fault.contains("cannot write \"/nowhere/s\""), "{fault}");
    assert!(!files.memory().exists(), "half a snapshot is left");
    // It is as it was.
    monitor.done(Method::Put, "/snapshot/create", &files.create());
    monitor.change_state("Resumed");
    monitor.terminate();
}

/// One line that names the file and what would be right, and a monitor that can be asked for something else.
#[test]
fn what_is_no_snapshot_is_refused() {
    let files = Files::new();
    let original = Monitor::running("echo", "");
    original.vm.expect("echo: ready");
    files.take(&original);
    let whole = fs::read(files.state()).unwrap();
    let state = String::from_utf8(whole.clone()).unwrap();
    let (format, body) = state.split_once('\n').unwrap();
    let without = |key: &str| {
        let mut value: Value = serde_json::from_str(body).unwrap();
        value.as_object_mut().unwrap().remove(key);
        format!("{format}\n{value}")
    };
    let changed = |pointer: &str, to: Value| {
        let mut value: Value = serde_json::from_str(body).unwrap();
        *value.pointer_mut(pointer).unwrap() = to;
        format!("{format}\n{value}")
    };
    let monitor = Monitor::start();
    for (contents, what) in [
        (String::new(), "must begin with the line"),
        ("\0\u{7f}ELF".to_owned(), "must begin with the line"),
        (
            state.replacen("snapshot 1", "snapshot 2", 1),
            "must begin with the line",
        ),
        (state[..state.len() / 2].to_owned(), "is damaged"),
        (without("clock"), "missing field `clock`"),
        (without("vcpus"), "missing field `vcpus`"),
        (
            changed("/vcpus", json!([])),
            "0 vCPUs, and a configuration with 1",
        ),
        (
            changed("/config/machine-config/vcpu_count", json!(99)),
            "describes no possible microVM",
        ),
        (
            changed("/config/machine-config/mem_size_mib", json!(64)),
            "the snapshot's machine has 67108864",
        ),
        (
            changed("/devices/ioapic/entries", json!([1])),
            "a table of 24 entries",
        ),
        (
            changed("/vcpus/0/regs", json!([1, 2, 3])),
            "the saved `regs` of a vCPU has a length of 3",
        ),
        (changed("/devices/serial/version", json!(7)), "format version 7"),
    ] {
        fs::write(files.state(), contents).unwrap();
        let fault = monitor.refused(Method::Put, "/snapshot/load", &files.load(&json!({})).to_string());
        assert!(
            fault.starts_with("Load snapshot error: ") && fault.contains(what),
            "{fault}"
        );
    }
    fs::write(files.state(), &whole).unwrap();
    for (path, what) in [
        (Path::new("/nowhere/state"), "No such file"),
        (Path::new("/dev"), "a directory"),
    ] {
        let load = json!({ "snapshot_path": path, "mem_file_path": files.memory() }).to_string();
        let fault = monitor.refused(Method::Put, "/snapshot/load", &load);
        assert!(fault.contains(what), "{fault}");
    }
    let memory = File::options().write(true).open(files.memory()).unwrap();
    memory.set_len(MEMORY / 2).unwrap();
    let load = files.load(&json!({ "resume_vm": true }));
    let fault = monitor.refused(Method::Put, "/snapshot/load", &load.to_string());
    assert!(
        fault.contains("the file with the memory has 67108864 bytes"),
        "{fault}"
    );
    // The memory that was cut off is lost, but no guest needs it here.
    memory.set_len(MEMORY).unwrap();
    monitor.done(Method::Put, "/snapshot/load", &load);
    assert_eq!(monitor.state(), "Running");
    let fault = monitor.refused(Method::Put, "/snapshot/load", &load.to_string());
    assert!(fault.contains("not supported after starting"), "{fault}");
}

#[test]
fn a_snapshot_is_loaded_into_an_empty_monitor_only() {
    let files = Files::new();
    let original = Monitor::running("echo", "");
    original.vm.expect("echo: ready");
    files.take(&original);
    let monitor = Monitor::start();
    monitor.done(Method::Put, "/entropy", &json!({}));
    let fault = monitor.refused(Method::Put, "/snapshot/load", &files.load(&json!({})).to_string());
    assert!(
        fault.contains("not allowed after configuring boot-specific resources"),
        "{fault}"
    );
    // A config file lacks a device that the snapshot has, or says twice what is to run.
    for (config, what) in [
        (
            config("echo", "", json!({ "snapshot": files.source() })),
            "`boot-source` and `snapshot` exclude each other",
        ),
        (json!({}), "missing field `boot-source`"),
    ] {
        let scratch = Scratch::new();
        let mut vm = Vm::from_config(&scratch, &config.to_string());
        vm.expect_exit(1);
        assert!(vm.transcript().contains(what), "{}", vm.transcript());
    }
}
