//! A container's `config.json` (OCI runtime specification 1.2), with the defaults that docker's users know.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Version of the specification that is written.
const OCI_VERSION: &str = "1.2.0";

/// What docker gives a container unless it is told otherwise.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// What no container sees: it tells about the kernel, or reaches into it.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
];
/// What no container changes.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// Where programs are looked for if the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessSpec {
    /// The program and its arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, the later one of two with the same name wins.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// User and group.
    pub user: (u32, u32),
    /// Whether it has a terminal.
    pub terminal: bool,
    /// All capabilities there are, not only the usual ones.
    pub privileged: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its first process.
    pub process: ProcessSpec,
    /// Its name in its UTS namespace.
    pub hostname: String,
    /// Whether its root file system refuses writes.
    pub read_only: bool,
}

impl ProcessSpec {
    /// The process object of the specification (section "Process").
    pub fn to_json(&self) -> Value {
        let capabilities = if self.privileged {
            all_capabilities()
        } else {
            CAPABILITIES.map(str::to_owned).to_vec()
        };
        json!({
            "terminal": self.terminal,
            "user": { "uid": self.user.0, "gid": self.user.1 },
            "args": self.args,
            "env": self.environment(),
            "cwd": self.cwd,
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": false,
        })
    }

    /// Each name once, and the ones that every container has.
    fn environment(&self) -> Vec<String> {
        let terminal = self.terminal.then_some("TERM=xterm");
        let defaults = [Some(PATH), terminal].into_iter().flatten().map(str::to_owned);
        let mut environment: Vec<String> = Vec::new();
        for variable in defaults.chain(self.env.iter().cloned()) {
            let name = |variable: &str| variable.split('=').next().map(str::to_owned);
            environment.retain(|known| name(known) != name(&variable));
            environment.push(variable);
        }
        environment
    }
}

impl ContainerSpec {
    /// The whole `config.json`. The agent fills in the root and the cgroup.
    pub fn to_json(&self) -> Value {
        let privileged = self.process.privileged;
        let hidden = |paths: &[&str]| if privileged { json!([]) } else { json!(paths) };
        json!({
            "ociVersion": OCI_VERSION,
            "process": self.process.to_json(),
            "root": { "path": "rootfs", "readonly": self.read_only },
            "hostname": self.hostname,
            "mounts": mounts(privileged),
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "cgroup" }, { "type": "network" },
                ],
                "resources": { "devices": device_rules(privileged) },
                "maskedPaths": hidden(&MASKED),
                "readonlyPaths": hidden(&READ_ONLY),
            },
        })
    }
}

fn mounts(privileged: bool) -> Value {
    let system = if privileged { "rw" } else { "ro" };
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs",
          "options": ["nosuid", "noexec", "nodev", system] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": ["nosuid", "noexec", "nodev", "relatime", system] },
    ])
}

fn device_rules(privileged: bool) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let character = |major: u32, minor: Option<u32>, access: &str| match minor {
        Some(minor) => {
            json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": access })
        }
        None => json!({ "allow": true, "type": "c", "major": major, "access": access }),
    };
    json!([
        { "allow": false, "access": "rwm" },
        // Any node may be made; only these are then opened: null, zero, full, random, urandom, tty, console,
        // ptmx and the terminals behind it.
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "b", "access": "m" },
        character(1, Some(3), "rwm"),
        character(1, Some(5), "rwm"),
        character(1, Some(7), "rwm"),
        character(1, Some(8), "rwm"),
        character(1, Some(9), "rwm"),
        character(5, Some(0), "rwm"),
        character(5, Some(1), "rwm"),
        character(5, Some(2), "rwm"),
        character(136, None, "rwm"),
    ])
}

/// What a privileged container has (capabilities(7), as of Linux 5.9).
fn all_capabilities() -> Vec<String> {
    const REST: &str = "AUDIT_CONTROL AUDIT_READ BLOCK_SUSPEND BPF CHECKPOINT_RESTORE DAC_READ_SEARCH IPC_LOCK \
        IPC_OWNER LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE NET_ADMIN NET_BROADCAST PERFMON SYSLOG SYS_ADMIN \
        SYS_BOOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM";
    let rest = REST.split_whitespace().map(|name| format!("CAP_{name}"));
    CAPABILITIES.map(str::to_owned).into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(env: &[&str], privileged: bool) -> ContainerSpec {
        ContainerSpec {
            process: ProcessSpec {
                args: vec!["sh".into()],
                env: env.iter().map(|&variable| variable.to_owned()).collect(),
                cwd: "/".into(),
                user: (0, 0),
                terminal: false,
                privileged,
            },
            hostname: "room".into(),
            read_only: false,
        }
    }

    #[test]
    fn the_last_variable_of_a_name_wins() {
        let json = spec(&["A=1", "PATH=/bin", "AB=2", "A=3"], false).to_json();
        assert_eq!(json["process"]["env"], json!(["PATH=/bin", "AB=2", "A=3"]));
        let json = spec(&[], false).to_json();
        assert_eq!(json["process"]["env"], json!([PATH]));
    }

    #[test]
    fn a_container_cannot_reach_the_guests_disks_unless_privileged() {
        let json = spec(&[], false).to_json();
        let rules = json["linux"]["resources"]["devices"].as_array().unwrap();
        assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
        let opens_disks =
            |rule: &&Value| rule["allow"] == true && rule["type"] != "c" && rule["access"] != "m";
        assert_eq!(rules.iter().find(opens_disks), None);
        assert!(
            json["linux"]["maskedPaths"]
                .as_array()
                .unwrap()
                .contains(&json!("/proc/kcore"))
        );

        let json = spec(&[], true).to_json();
        assert_eq!(json["linux"]["maskedPaths"], json!([]));
        let bounding = json["process"]["capabilities"]["bounding"].as_array().unwrap();
        assert!(bounding.contains(&json!("CAP_SYS_ADMIN")));
        assert_eq!(bounding.len(), 41);
    }
}
