//! A distribution with systemd as process 1 of a container.

use std::io::Read;
use std::time::Duration;

use koya_proto::client::ProcessId;
use koya_proto::stream::Token;
use koya_proto::v1::{CreateRequest, ExecRequest, Stdio};
use serde_json::{Value, json};

use super::{disk, overlay};
use crate::machine::{Machine, variable};

/// Debian's systemd starts 60 units on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(300);
/// What asks systemd to halt: SIGRTMIN+3.
const SIGRTMIN_3: u32 = 37;
/// Capabilities that a user namespace confines.
const CAPABILITIES: &str = "AUDIT_WRITE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE \
    LINUX_IMMUTABLE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN \
    SYS_BOOT SYS_CHROOT SYS_NICE SYS_PTRACE SYS_RESOURCE SYS_TTY_CONFIG";

fn process(arguments: &[&str], terminal: bool) -> Value {
    let capabilities: Vec<String> = CAPABILITIES
        .split_whitespace()
        .map(|name| format!("CAP_{name}"))
        .collect();
    json!({
        "terminal": terminal,
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": arguments,
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "container=koya",
                "container_uuid=0123456789abcdef0123456789abcdef"],
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
    })
}

fn config() -> Value {
    let mapping = json!([{ "containerID": 0, "hostID": 1_048_576, "size": 65_536 }]);
    let mount = |kind: &str, at: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
    let namespaces = ["pid", "ipc", "uts", "mount", "cgroup", "network", "user", "time"];
    json!({
        "ociVersion": "1.2.0",
        "process": process(&["/sbin/init"], true),
        "root": { "path": "rootfs" },
        "hostname": "house",
        "annotations": { "dev.koya.system": "true" },
        "mounts": [
            mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755"]),
            mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
            mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
            mount("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "rw"]),
            mount("tmpfs", "/run", &["nosuid", "nodev", "mode=755"]),
            mount("tmpfs", "/run/lock", &["nosuid", "nodev", "noexec", "mode=1777"]),
            mount("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]),
        ],
        "linux": {
            "namespaces": namespaces.map(|name| json!({ "type": name })),
            "uidMappings": mapping, "gidMappings": mapping,
            "readonlyPaths": ["/proc/sys"],
            "resources": {
                "memory": { "limit": 256 << 20 }, "pids": { "limit": 200 },
                "blockIO": { "throttleReadBpsDevice": [{ "serial": "scratch", "rate": 123_456_789 }] },
                "devices": devices(),
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "syscalls": [{ "names": ["kexec_load", "init_module"], "action": "SCMP_ACT_ERRNO" }],
            },
        },
    })
}

/// What a container may open: null, zero, full, random, urandom, tty, console, ptmx and terminals.
fn devices() -> Vec<Value> {
    let open = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }),
    ];
    rules.extend(open.map(
        |(major, minor)| json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }),
    ));
    rules
}

/// Runs a program in the container; answers its exit code and output.
fn exec(machine: &Machine, name: &str, arguments: &[&str]) -> (u32, String) {
    let out = Token::random().unwrap();
    let request = ExecRequest {
        id: "house".to_owned(),
        exec_id: name.to_owned(),
        process: process(arguments, false).to_string().into_bytes(),
        stdio: Some(Stdio {
            stdout: out.to_field(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    machine.agent.exec(request).unwrap();
    let mut text = String::new();
    machine.stream(out).read_to_string(&mut text).unwrap();
    let exit = machine
        .agent
        .wait(&ProcessId::exec("house", name), Some(PATIENCE))
        .unwrap();
    (exit.code, text)
}

#[test]
fn debian_with_systemd_runs_in_a_container_and_halts_cleanly() {
    let machine = Machine::boot_with(512, &[("debian", variable("KOYA_DISK_SYSTEMD").as_ref())]);
    // A terminal with nobody at it: what systemd writes there must not stop it.
    let request = CreateRequest {
        id: "house".to_owned(),
        root: Some(overlay(disk("debian", ""), Some(disk("scratch", "web")))).into(),
        config: config().to_string().into_bytes(),
        ..Default::default()
    };
    machine.agent.create(request).unwrap();
    machine.agent.start("house").unwrap();
    // systemd's bus is not there in its first moments.
    let script = "until systemctl is-system-running --wait; do state=$(systemctl is-system-running); \
        [ \"$state\" = degraded ] && break; sleep 1; done; systemctl --failed --no-legend --no-pager";
    let (_, state) = exec(&machine, "state", &["sh", "-c", script]);
    assert_eq!(state.lines().last(), Some("running"), "{state}");

    // Its root is root inside and nobody outside; its files belong to it, on disk, too.
    let script = "id -u; stat -c %u /etc/passwd; cat /proc/self/uid_map; touch /kept; stat -c %u /kept; \
        cat /proc/1/cgroup; systemd-detect-virt -c; cat /etc/machine-id; \
        grep -o 'rbps=[0-9]*' /sys/fs/cgroup/io.max";
    let (code, text) = exec(&machine, "who", &["sh", "-c", script]);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let wanted = [
        "0",
        "0",
        "0    1048576      65536",
        "0",
        "0::/init.scope",
        "container-other",
        "0123456789abcdef0123456789abcdef",
        "rbps=123456789",
    ];
    assert_eq!((code, lines.as_slice()), (0, wanted.as_slice()));
    // A service of its own, in a cgroup of its own, with a limit of its own.
    let run = "systemd-run --wait --pipe -q -p MemoryMax=32M sh -c 'cat /proc/self/cgroup; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max'";
    let (code, text) = exec(&machine, "service", &["sh", "-c", run]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("/system.slice/run-") && text.ends_with("33554432\n"),
        "{text}"
    );

    machine.agent.signal(&"house".into(), SIGRTMIN_3).unwrap();
    let exit = machine.agent.wait(&"house".into(), Some(PATIENCE)).unwrap();
    assert_eq!((exit.code, exit.signal), (0, 0), "systemd did not halt cleanly");
    machine.agent.delete("house", false).unwrap();
    assert_eq!(machine.agent.health().unwrap().containers, 0);
}
