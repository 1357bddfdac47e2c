//! Networks of containers, whole: netavark, the takeover of its namespace, a microVM in it, and the agent that moves cards
//! into containers. The host is a network namespace of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::RPC_PORT;
use koya_proto::client::{AgentClient, connect};
use koya_proto::v1::{self, CreateRequest, RootFilesystem};
use koya_sandbox::hybrid;
use koya_sandbox::network::{Attached, NetworkRequest, Networks, VmNetwork};
use koya_sandbox::parts::Parts;
use koya_tests::vm::{PATIENCE, Scratch, Vm, from_env};
use serde_json::json;

use crate::support::{MIB, isolate, noise, run, sha256, succeed, visitor};

/// Sent each way between a container and the host.
const BULK: u64 = 16 * MIB;

/// A microVM in a prepared namespace, with the agent in it.
struct House {
    agent: AgentClient,
    _vm: Vm,
}

impl House {
    fn boot(scratch: &Scratch, network: &VmNetwork) -> Self {
        let parts = Parts {
            vmm: from_env("KOYA_VMM"),
            kernel: from_env("KOYA_KERNEL"),
            agent: from_env("KOYA_AGENT"),
        };
        let initramfs = parts.initramfs(&scratch.path("parts")).unwrap();
        let cards: Vec<_> = network
            .cards
            .iter()
            .map(|card| json!({ "iface_id": card.tap, "host_dev_name": card.tap, "guest_mac": card.mac }))
            .collect();
        let disk = json!({
            "drive_id": "root", "path_on_host": root_disk(scratch), "is_root_device": false, "is_read_only": true,
        });
        let config = json!({
            "boot-source": {
                "kernel_image_path": parts.kernel, "initrd_path": initramfs,
                "boot_args": "console=ttyS0 reboot=k panic=-1 quiet loglevel=3",
            },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 512 },
            "drives": [disk],
            "network-interfaces": cards,
            "vsock": { "guest_cid": 3, "uds_path": scratch.path("v.sock") },
        });
        let config = scratch.file("vm.json", config.to_string());
        let namespace = network.namespace().unwrap();
        let mut command = Command::new(&parts.vmm);
        command.arg("--no-api").arg("--config-file").arg(config);
        // SAFETY: between fork and exec the closure makes one system call and touches no memory.
        unsafe { command.pre_exec(move || namespace.enter()) };
        let vm = Vm::spawn(command);
        let start = Instant::now();
        let stream = loop {
            match hybrid::connect(&scratch.path("v.sock"), RPC_PORT, Duration::from_secs(5)) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < PATIENCE, "the agent does not answer: {error}"),
            }
            thread::sleep(Duration::from_millis(50));
        };
        Self {
            agent: connect(stream).unwrap(),
            _vm: vm,
        }
    }

    /// A container that answers everybody who connects to its port 80 with what the script says.
    fn serve(&self, attached: &Attached, script: &str) {
        let script = format!("word=$({script}); exec nc -ll -p 80 -e /bin/busybox echo $word");
        let all = ["CAP_NET_RAW", "CAP_NET_BIND_SERVICE"];
        let config = json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/",
                "user": { "uid": 0, "gid": 0 },
                "capabilities": { "bounding": all, "effective": all, "permitted": all },
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network" }] },
        });
        let lower = v1::Disk {
            serial: "root".into(),
            filesystem: "ext4".into(),
            ..Default::default()
        };
        let overlay = v1::Overlay {
            lower: vec![lower],
            ..Default::default()
        };
        let request = CreateRequest {
            id: attached.id.clone(),
            root: Some(RootFilesystem {
                source: Some(v1::root_filesystem::Source::Overlay(overlay)),
                ..Default::default()
            })
            .into(),
            config: config.to_string().into_bytes(),
            files: attached.files(),
            ..Default::default()
        };
        self.agent.create(request).unwrap();
        self.agent.configure_network(&attached.guest_request()).unwrap();
        self.agent.start(&attached.id).unwrap();
    }
}

/// busybox, and where things are mounted.
fn root_disk(scratch: &Scratch) -> PathBuf {
    let (tree, disk) = (scratch.path("tree"), scratch.path("root.ext4"));
    for folder in ["bin", "dev", "proc", "etc", "tmp"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    for applet in [
        "sh",
        "nc",
        "ping",
        "cat",
        "head",
        "sha256sum",
        "echo",
        "nslookup",
        "grep",
    ] {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    let mke2fs = |command: &mut Command| succeed(command);
    mke2fs(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-F", "-d"])
            .arg(&tree)
            .arg(&disk)
            .arg("16M"),
    );
    disk
}

fn request(name: &str, port: &str) -> NetworkRequest {
    NetworkRequest {
        name: name.into(),
        hostname: name.into(),
        ports: vec![port.parse().unwrap()],
        ..Default::default()
    }
}

/// What the container behind a port of the host says, once it does.
fn hear(port: u16) -> String {
    let start = Instant::now();
    loop {
        match try_to_hear(port) {
            Ok(word) if !word.is_empty() => return word.trim().to_owned(),
            outcome => assert!(start.elapsed() < PATIENCE, "port {port}: {outcome:?}"),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn try_to_hear(port: u16) -> std::io::Result<String> {
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut word = String::new();
    stream.read_to_string(&mut word)?;
    Ok(word)
}

fn aardvark_ends(run_folder: &Path) {
    if let Ok(pid) = fs::read_to_string(run_folder.join("aardvark-dns/aardvark.pid")) {
        let _ = Command::new("kill").arg(pid.trim()).status();
    }
}

#[test]
fn rooms_of_a_microvm_have_networks_of_their_own() {
    isolate();
    let scratch = Scratch::new();
    let run_folder = scratch.path("run");
    let networks = Networks::with_run(&scratch.path("home"), &run_folder).unwrap();
    let network = networks.prepare("vm1", 2, 2).unwrap();
    let one = networks.attach("one", "vm1", &request("one", "8001:80")).unwrap();
    let gateway = one.links[0].gateways[0];
    let house = House::boot(&scratch, &network);

    house.serve(
        &one,
        &format!("ping -c 2 -W 5 {gateway} > /tmp/ping && echo pinged; cat /etc/hostname"),
    );
    assert_eq!(hear(8001), "pinged one");

    // A room that comes when the microVM runs: it hears the first one, and megabytes go both ways.
    let two = networks.attach("two", "vm1", &request("two", "8002:80")).unwrap();
    let (to_guest, from_guest) = (
        listener(&gateway.to_string(), 9000),
        listener(&gateway.to_string(), 9001),
    );
    let bulk = noise(BULK);
    let hash = sha256(&bulk);
    let sender = thread::spawn(move || visitor(&to_guest).write_all(&bulk).unwrap());
    let receiver = thread::spawn(move || {
        let mut received = Vec::new();
        visitor(&from_guest).read_to_end(&mut received).unwrap();
        received.len()
    });
    house.serve(
        &two,
        &format!(
            "nc {gateway} 9000 | sha256sum | head -c 64; head -c {BULK} /dev/zero | nc {gateway} 9001; \
             nc {} 80; nslookup one.dns.podman {gateway} | grep -o {}",
            one.address().unwrap(),
            one.address().unwrap()
        ),
    );
    sender.join().unwrap();
    assert_eq!(receiver.join().unwrap() as u64, BULK);
    assert_eq!(hear(8002), format!("{hash}pinged one {}", one.address().unwrap()));
    assert_eq!(hear(8001), "pinged one");

    // Its card comes back with its end, and is the next room's.
    house.agent.delete("two", true).unwrap();
    networks.detach("two").unwrap();
    let three = networks
        .attach("three", "vm1", &request("three", "8002:80"))
        .unwrap();
    assert_eq!(three.links[0].mac, two.links[0].mac);
    house.serve(&three, "cat /etc/hostname");
    assert_eq!(hear(8002), "three");

    drop(house);
    networks.sweep(|_| false).unwrap();
    let links = run("ip -o link");
    assert_eq!(links.lines().count(), 1, "{links}");
    aardvark_ends(&run_folder);
}

fn listener(address: &str, port: u16) -> TcpListener {
    let listener = TcpListener::bind((address, port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}
