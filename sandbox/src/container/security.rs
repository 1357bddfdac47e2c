//! What a container may do: capabilities, devices, paths.

use serde_json::{Value, json};
use thiserror::Error;

use super::ProcessSpec;

/// What docker gives a container unless it is told otherwise.
const USUAL: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// What an init needs beyond it. In a user namespace none of them reaches further than the container's own
/// namespaces.
const SYSTEM: [&str; 14] = [
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_PTRACE",
    "SYS_RESOURCE",
    "SYS_TTY_CONFIG",
];
/// What reaches the kernel itself. An init that sees it missing leaves such things alone.
const KERNEL: [&str; 13] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "PERFMON",
    "SYSLOG",
    "SYS_MODULE",
    "SYS_PACCT",
    "SYS_RAWIO",
    "SYS_TIME",
    "WAKE_ALARM",
];
/// What no application container sees: it tells about the kernel, or reaches into it.
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
/// What no application container changes.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Why a text is no capability.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("capability '{0}' is unknown; want ALL or a name of capabilities(7), as NET_ADMIN or CAP_NET_ADMIN")]
pub struct CapabilityError(String);

/// The name of a capability without `CAP_` in capitals, or `ALL`.
///
/// # Errors
/// [`CapabilityError`], if Linux has none of this name.
pub fn capability(text: &str) -> Result<String, CapabilityError> {
    let name = text.to_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" || every().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(CapabilityError(text.to_owned()))
}

/// All of capabilities(7), as of Linux 5.9, without `CAP_`: what a privileged container has.
pub(crate) fn every() -> impl Iterator<Item = &'static str> {
    USUAL.into_iter().chain(SYSTEM).chain(KERNEL)
}

/// Names of the capabilities that a process has, without `CAP_`.
pub(super) fn granted(process: &ProcessSpec) -> Vec<&'static str> {
    let has = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    let (add, drop) = (&process.cap_add, &process.cap_drop);
    every()
        .filter(|name| {
            let usual = USUAL.contains(name) || (process.system && SYSTEM.contains(name));
            let wanted = process.privileged || usual || has(add, "ALL");
            let dropped = has(drop, name) || (has(drop, "ALL") && !has(add, "ALL"));
            has(add, name) || (wanted && !dropped)
        })
        .collect()
}

/// The same, as the specification names them.
pub(super) fn capabilities(process: &ProcessSpec) -> Vec<String> {
    granted(process)
        .into_iter()
        .map(|name| format!("CAP_{name}"))
        .collect()
}

/// A system container's processes are nobody outside its user namespace: the kernel's own rules hide what is hidden
/// here, and a mask would keep it from mounting a /proc for containers of its own.
pub(super) fn masked_paths(system: bool, privileged: bool) -> Value {
    if privileged || system {
        json!([])
    } else {
        json!(MASKED)
    }
}

/// The agent leaves /proc/sys/net of a system container writable: it is the container's own.
pub(super) fn read_only_paths(system: bool, privileged: bool) -> Value {
    match (privileged, system) {
        (true, false) => json!([]),
        (_, true) => json!(["/proc/sys"]),
        (false, false) => json!(READ_ONLY),
    }
}

/// Which device nodes can be made and opened.
pub(super) fn device_rules(privileged: bool) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn process(add: &[&str], drop: &[&str]) -> ProcessSpec {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        ProcessSpec {
            cap_add: words(add),
            cap_drop: words(drop),
            ..Default::default()
        }
    }

    #[test]
    fn names_are_taken_with_and_without_prefix() {
        for text in ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin"] {
            assert_eq!(capability(text), Ok("NET_ADMIN".to_owned()));
        }
        assert_eq!(capability("all"), Ok("ALL".to_owned()));
        assert!(
            capability("NET_ADMINS")
                .unwrap_err()
                .to_string()
                .contains("'NET_ADMINS'")
        );
        assert!(capability("").is_err());
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let count = |add: &[&str], drop: &[&str]| granted(&process(add, drop)).len();
        assert_eq!(count(&[], &[]), 14);
        assert_eq!(count(&["NET_ADMIN"], &[]), 15);
        assert_eq!(count(&["ALL"], &[]), 41);
        assert_eq!(count(&["ALL"], &["SYS_ADMIN", "CHOWN"]), 39);
        assert_eq!(count(&[], &["ALL"]), 0);
        assert_eq!(granted(&process(&["CHOWN"], &["ALL"])), ["CHOWN"]);
        assert_eq!(count(&[], &["CHOWN"]), 13);
    }

    #[test]
    fn an_init_gets_what_its_user_namespace_confines() {
        let init = ProcessSpec {
            system: true,
            ..Default::default()
        };
        let granted = granted(&init);
        assert!(granted.contains(&"SYS_ADMIN") && granted.contains(&"SYS_BOOT"));
        assert!(!granted.contains(&"SYS_MODULE") && !granted.contains(&"SYS_TIME"));
    }
}
