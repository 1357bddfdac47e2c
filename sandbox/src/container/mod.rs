//! A container's `config.json` (OCI runtime specification 1.2), with the defaults that docker's users know.
//!
//! ```text
//!  ContainerSpec ─┬─ process    ProcessSpec: program, environment, user, rights
//!                 ├─ resources  limits, as cgroup v2 of the guest knows them
//!                 ├─ mounts     what is mounted for every container, and what this one adds
//!                 ├─ security   capabilities, device rules, paths that are hidden
//!                 ├─ seccomp    which system calls there are
//!                 └─ system     what is different where a distribution's init is process 1
//! ```

mod mounts;
mod process;
mod resources;
mod seccomp;
mod security;
mod system;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use mounts::Mount;
pub use process::{ProcessSpec, Ulimit, UlimitError};
pub use resources::{DiskLimit, Resources};
pub use seccomp::Seccomp;
pub(crate) use security::every as every_capability;
pub use security::{CapabilityError, capability};
pub use system::IdMap;

/// The names of all capabilities, as `config.json` has them.
pub fn capabilities() -> impl Iterator<Item = String> {
    every_capability().map(|name| format!("CAP_{name}"))
}

/// Version of the specification that is written.
const OCI_VERSION: &str = "1.2.0";

/// A container. Whether it is a system container is its process's to say ([`ProcessSpec::system`]).
///
/// `ContainerSpec::default()` has docker's defaults and no program; fill in the rest with `..Default::default()`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerSpec {
    /// Its first process.
    pub process: ProcessSpec,
    /// Its name in its UTS namespace.
    pub hostname: String,
    /// Whether its root file system refuses writes.
    pub read_only: bool,
    /// Which ids of the guest its users have. Absent: the guest's own, without a user namespace. System containers
    /// want one: [`IdMap::of_room`].
    pub id_map: Option<IdMap>,
    /// Its limits.
    pub resources: Resources,
    /// Kernel parameters of its namespaces: `net.ipv4.ip_forward` = `1`.
    pub sysctls: BTreeMap<String, String>,
    /// Which system calls it has.
    pub seccomp: Seccomp,
    /// What is mounted beyond what every container has, in this order.
    pub mounts: Vec<Mount>,
    /// 32 hexadecimal digits that a system container's init takes as its machine id where /etc/machine-id is empty.
    pub uuid: Option<String>,
}

impl ContainerSpec {
    /// The whole `config.json`. The agent fills in the root and the cgroup.
    pub fn to_json(&self) -> Value {
        let ProcessSpec {
            system, privileged, ..
        } = self.process;
        let mut process = self.process.to_json();
        if system {
            system::extend_environment(&mut process, self.uuid.as_deref());
        }
        let mut linux = json!({
            "namespaces": system::namespaces(system, self.id_map.is_some()),
            "resources": self.linux_resources(),
            "maskedPaths": security::masked_paths(system, privileged),
            "readonlyPaths": security::read_only_paths(system, privileged),
            "sysctl": self.sysctls,
        });
        if let Some(map) = self.id_map {
            put(&mut linux, "uidMappings", map.to_json());
            put(&mut linux, "gidMappings", map.to_json());
        }
        if let Some(profile) = self.seccomp.to_json(&self.process) {
            put(&mut linux, "seccomp", profile);
        }
        let mut config = json!({
            "ociVersion": OCI_VERSION,
            "process": process,
            "root": { "path": "rootfs", "readonly": self.read_only },
            "hostname": self.hostname,
            "mounts": mounts::all(self),
            "linux": linux,
        });
        if system {
            put(&mut config, "annotations", system::annotations());
        }
        config
    }

    fn linux_resources(&self) -> Value {
        let mut resources = self.resources.to_json();
        put(
            &mut resources,
            "devices",
            security::device_rules(self.process.privileged),
        );
        resources
    }
}

/// Sets a field of an object.
fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests;
