//! `linux.resources`: limits go to the guest's cgroups; those that name things of the host cannot.

use serde_json::Value;

use super::BundleError;
use super::config::{Config, linux, wrong};
use super::left_out;

/// Limits of single disks, by the host's numbers.
const DISKS: [&str; 5] = [
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
    "weightDevice",
];

/// What docker sends with every update, as 0 or empty where nothing is to change.
const ALWAYS_SENT: [(&str, &[&str]); 4] = [
    (
        "cpu",
        &[
            "quota",
            "period",
            "shares",
            "cpus",
            "mems",
            "realtimePeriod",
            "realtimeRuntime",
        ],
    ),
    ("memory", &["limit", "reservation", "swap", "kernel"]),
    ("blockIO", &["weight"]),
    ("pids", &["limit"]),
];

pub(super) fn translate(config: &mut Config) -> Result<(), BundleError> {
    match linux(config)?.get_mut("resources") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(resources)) => for_guest(resources),
        other => Err(wrong("linux.resources", other.as_deref(), "an object")),
    }
}

/// New limits for a container that exists, as the guest takes them. What docker sends along as 0 or empty stays as it
/// is.
///
/// # Errors
/// [`BundleError`]
pub fn for_update(resources: &mut Value) -> Result<(), BundleError> {
    match resources {
        Value::Object(resources) => {
            // The specification's own command lines send it along; it is for the creation.
            resources.remove("devices");
            for (group, names) in ALWAYS_SENT {
                if let Some(group) = resources.get_mut(group).and_then(Value::as_object_mut) {
                    group.retain(|name, limit| {
                        !names.contains(&name.as_str()) || (*limit != 0 && limit != "")
                    });
                }
            }
            for_guest(resources)
        }
        other => Err(wrong("resources", Some(other), "an object")),
    }
}

fn for_guest(resources: &mut Config) -> Result<(), BundleError> {
    if let Some(block) = resources.get_mut("blockIO").and_then(Value::as_object_mut) {
        for list in DISKS {
            let named = block.remove(list);
            if named
                .as_ref()
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty())
            {
                return Err(BundleError::Unsupported {
                    what: format!("linux.resources.blockIO.{list}"),
                    reason: "it names a disk of the host, and the container's files come by virtio-fs; limit the host's \
                             cgroup instead",
                });
            }
        }
    }
    for name in left_out::RESOURCES {
        resources.remove(name);
    }
    if let Some(memory) = resources.get_mut("memory").and_then(Value::as_object_mut) {
        for name in left_out::MEMORY {
            memory.remove(name);
        }
    }
    if let Some(cpu) = resources.get_mut("cpu").and_then(Value::as_object_mut) {
        for name in left_out::CPU {
            cpu.remove(name);
        }
    }
    Ok(())
}
