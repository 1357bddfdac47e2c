//! The agent as PID 1 of a real guest: an initial RAM disk that holds nothing
//! but the agent (as /init), and disks for its containers.
//!
//! Needs a KVM host on which stock kernels run, as root, and says where things
//! are by KOYA_VMM (a koya-vmm), KOYA_KERNEL (a vmlinux) and KOYA_DISK_SYSTEMD (an
//! ext4 of Debian with systemd). It fails where one of them is missing.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod machine;
mod system;

use std::io::Read;
use std::time::{Duration, SystemTime};

use koya_proto::error::ErrorKind;
use koya_proto::stream::Token;
use koya_proto::v1::root_filesystem::Source;
use koya_proto::v1::{CreateRequest, DeleteRequest, Disk, Overlay, RootFilesystem, ShutdownKind, Stdio};
use machine::Machine;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

fn disk(serial: &str, folder: &str) -> Disk {
    Disk {
        serial: serial.to_owned(),
        filesystem: "ext4".to_owned(),
        folder: folder.to_owned(),
        ..Default::default()
    }
}

fn overlay(lower: Disk, scratch: Option<Disk>) -> RootFilesystem {
    let overlay = Overlay {
        lower: vec![lower],
        scratch: scratch.into(),
        ..Default::default()
    };
    RootFilesystem {
        source: Some(Source::Overlay(overlay)),
        ..Default::default()
    }
}

fn config(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "cwd": "/",
            "args": ["/bin/busybox", "sh", "-c", script], "env": ["PATH=/bin"],
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
            { "type": "uts" }, { "type": "network" }, { "type": "cgroup" },
        ] },
    })
}

/// Runs a script in a container; answers its exit code and output.
fn run(machine: &Machine, id: &str, root: RootFilesystem, script: &str) -> (u32, String) {
    let out = Token::random().unwrap();
    let stdio = Stdio {
        stdout: out.to_field(),
        ..Default::default()
    };
    let request = CreateRequest {
        id: id.to_owned(),
        root: Some(root).into(),
        config: config(script).to_string().into_bytes(),
        stdio: Some(stdio).into(),
        ..Default::default()
    };
    machine.agent.create(request).unwrap();
    let mut stream = machine.stream(out);
    machine.agent.start(id).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let exit = machine.agent.wait(&id.into(), Some(LONG)).unwrap();
    machine.agent.delete(id, false).unwrap();
    (exit.code, text)
}

#[test]
fn a_guest_boots_runs_containers_from_disks_and_powers_off() {
    let mut machine = Machine::boot();
    let details = machine.agent.details().unwrap();
    assert_eq!((details.hostname.as_str(), details.cpus_online), ("hut", 1));
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        assert!(
            details.cgroup_controllers.iter().any(|name| name == controller),
            "{controller}"
        );
    }
    clock_and_random_numbers(&machine);

    // What one container writes to the scratch disk, another finds on it.
    let scratch = || Some(disk("scratch", "web"));
    let write = run(
        &machine,
        "one",
        overlay(disk("layer", ""), scratch()),
        "echo kept > /note; busybox ls /; exit 7",
    );
    assert_eq!(write, (7, "bin\ndev\nlost+found\nnote\nproc\n".to_owned()));
    let read = run(
        &machine,
        "two",
        overlay(disk("layer", ""), scratch()),
        "read note < /note; echo $note",
    );
    assert_eq!(read, (0, "kept\n".to_owned()));
    purged_is_gone(&machine);
    // In memory it is gone.
    let script = "[ -e /note ] || echo gone; echo x > /new && echo new";
    assert_eq!(
        run(&machine, "three", overlay(disk("layer", ""), None), script),
        (0, "gone\nnew\n".to_owned())
    );

    let missing = CreateRequest {
        id: "four".to_owned(),
        root: Some(overlay(disk("nothing", ""), None)).into(),
        config: config("true").to_string().into_bytes(),
        ..Default::default()
    };
    let error = machine.agent.create(missing).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_STORAGE));
    assert!(error.to_string().contains("'nothing'"), "{error}");

    machine
        .agent
        .shutdown(ShutdownKind::SHUTDOWN_KIND_POWEROFF)
        .unwrap();
    let console = machine.await_end();
    assert!(
        console.contains("koya-agent: ready") && console.contains("going down"),
        "{console}"
    );
    assert!(!console.contains("panic"), "{console}");
    // The scratch disk was unmounted: its journal has nothing to replay.
    assert!(machine.is_clean("scratch"));
}

/// What a container wrote goes with it, and no other folder of the scratch disk.
fn purged_is_gone(machine: &Machine) {
    let on = |folder: &str| overlay(disk("layer", ""), Some(disk("scratch", folder)));
    assert_eq!(run(machine, "write", on("shop"), "echo x > /note").0, 0);
    let again = CreateRequest {
        id: "purged".to_owned(),
        root: Some(on("shop")).into(),
        config: config("true").to_string().into_bytes(),
        ..Default::default()
    };
    machine.agent.create(again).unwrap();
    let purge = DeleteRequest {
        id: "purged".to_owned(),
        force: true,
        purge: true,
        ..Default::default()
    };
    machine.agent.delete_with(purge).unwrap();
    let look = "[ -e /note ] && echo there || echo gone";
    assert_eq!(run(machine, "shop", on("shop"), look), (0, "gone\n".to_owned()));
    assert_eq!(run(machine, "web", on("web"), look), (0, "there\n".to_owned()));
}

fn clock_and_random_numbers(machine: &Machine) {
    let later = SystemTime::now() + Duration::from_secs(86_400);
    machine.agent.set_clock(later).unwrap();
    let (_, text) = run(
        machine,
        "clock",
        overlay(disk("layer", ""), None),
        "busybox date +%s",
    );
    let seconds: u64 = text.trim().parse().unwrap();
    let wanted = later.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(
        (wanted..wanted + 60).contains(&seconds),
        "{seconds} instead of {wanted}"
    );
    machine.agent.reseed(&[7; 64]).unwrap();
    assert_eq!(
        machine.agent.reseed(&[7; 8]).unwrap_err().kind(),
        Some(ErrorKind::ERROR_KIND_INVALID)
    );
}
