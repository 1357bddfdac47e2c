//! What a bundle asks for and a microVM has no use for: it runs without, and whoever reads the log is told.

use serde_json::Value;

use super::BundleError;
use super::config::Config;

/// Of cgroup v1's network controllers, of RDMA and of cgroup v1's memory there is nothing in a guest, which has its own
/// processors, too: the host's numbers say nothing there.
pub(super) const RESOURCES: [&str; 2] = ["network", "rdma"];
/// Of `memory`.
pub(super) const MEMORY: [&str; 5] = [
    "kernel",
    "kernelTCP",
    "swappiness",
    "disableOOMKiller",
    "useHierarchy",
];
/// Of `cpu`.
pub(super) const CPU: [&str; 4] = ["cpus", "mems", "realtimeRuntime", "realtimePeriod"];
/// Of `linux`: the host's security module.
pub(super) const LINUX: [&str; 1] = ["mountLabel"];
/// An option of engines for tmpfs mounts: such a folder begins empty here.
pub(super) const COPY_UP: &str = "tmpcopyup";

/// Names of what `config` asks for in vain, from the top. Whether later mounts of the host are followed is the operator's to
/// say.
pub(super) fn of(config: &Config, follows: bool) -> Vec<String> {
    let linux = config.get("linux");
    let resources = linux.and_then(|linux| linux.get("resources"));
    let part = |name: &str| resources.and_then(|resources| resources.get(name));
    let places: [(&str, Option<&Value>, &[&str]); 4] = [
        ("linux.", linux, &LINUX),
        ("linux.resources.", resources, &RESOURCES),
        ("linux.resources.memory.", part("memory"), &MEMORY),
        ("linux.resources.cpu.", part("cpu"), &CPU),
    ];
    let mut found = Vec::new();
    for (path, object, names) in places {
        let wanted = |name: &&&str| {
            object
                .and_then(|object| object.get(**name))
                .is_some_and(says_something)
        };
        found.extend(names.iter().filter(wanted).map(|name| format!("{path}{name}")));
    }
    let mounts = config.get("mounts").and_then(Value::as_array);
    for mount in mounts.into_iter().flatten() {
        let destination = mount.get("destination").and_then(Value::as_str).unwrap_or("?");
        let options = mount.get("options").and_then(Value::as_array);
        for option in options.into_iter().flatten().filter_map(Value::as_str) {
            match option {
                COPY_UP => found.push(format!("{COPY_UP} of the mount at {destination:?}")),
                // The guest's mounts are no mounts of the host.
                "shared" | "rshared" => {
                    found.push(format!(
                        "{option} of the mount at {destination:?}, towards the host,"
                    ));
                }
                "slave" | "rslave" if !follows => {
                    found.push(format!(
                        "{option} of the mount at {destination:?} (follow_host_mounts is not set)"
                    ));
                }
                _ => {}
            }
        }
    }
    found
}

/// Shares of the host's caches are asked for by those who rely on them.
pub(super) fn refuse_caches(config: &Config) -> Result<(), BundleError> {
    let asked = config.get("linux").and_then(|linux| linux.get("intelRdt"));
    match asked.is_some_and(says_something) {
        false => Ok(()),
        true => Err(BundleError::Unsupported {
            what: "linux.intelRdt".to_owned(),
            reason: "a guest has no resctrl file system: the processor's caches are the host's to share out; leave it out",
        }),
    }
}

/// Engines write out much that nobody has asked for.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => fields.values().any(says_something),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_asked_for_in_vain_is_named_and_defaults_are_not() {
        let config = json!({
            "linux": {
                "mountLabel": "",
                "resources": {
                    "cpu": { "cpus": "0-1", "shares": 512, "mems": "" },
                    "memory": { "limit": 1 << 29, "disableOOMKiller": false, "swappiness": 60 },
                    "network": { "classID": 0 },
                    "rdma": { "mlx5_1": { "hcaHandles": 3 } },
                },
            },
            "mounts": [
                { "destination": "/run", "type": "tmpfs", "options": ["rw", "tmpcopyup"] },
                { "destination": "/tmp", "type": "tmpfs", "options": ["rw"] },
                { "destination": "/data", "type": "bind", "options": ["rbind", "rshared"] },
            ],
        });
        let found = of(config.as_object().unwrap(), true);
        assert_eq!(
            found,
            [
                "linux.resources.rdma",
                "linux.resources.memory.swappiness",
                "linux.resources.cpu.cpus",
                "tmpcopyup of the mount at \"/run\"",
                "rshared of the mount at \"/data\", towards the host,",
            ]
        );
    }
}
