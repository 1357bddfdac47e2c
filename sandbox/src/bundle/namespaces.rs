//! Namespaces: the network's is taken over, the others are the guest's to make.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::BundleError;
use super::config::{Config, linux, list, wrong};

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// A namespace that nobody has made yet. Hooks may furnish it.
    New,
    /// One that somebody has made: `/run/netns/NAME`, `/proc/PID/ns/net`.
    Of(PathBuf),
}

/// Those that a container has in its guest whatever the bundle says: without them it would share the agent's.
const OWN: [&str; 4] = ["ipc", "uts", "mount", "cgroup"];

/// Leaves in `linux.namespaces` what the guest makes.
pub(super) fn translate(config: &mut Config) -> Result<Network, BundleError> {
    let linux = linux(config)?;
    let mut kinds: Vec<String> = OWN.map(str::to_owned).to_vec();
    let (mut network, mut pid) = (None, false);
    for entry in list(linux, "namespaces", "linux.namespaces")? {
        let kind = entry.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| {
            wrong(
                "linux.namespaces[].type",
                entry.get("type"),
                "a kind of namespace",
            )
        })?;
        let path = match entry.get("path") {
            None | Some(Value::Null) => None,
            Some(Value::String(path)) if path.is_empty() => None,
            Some(Value::String(path)) => Some(path.as_str()),
            other => return Err(wrong("linux.namespaces[].path", other, "a path")),
        };
        match (kind, path) {
            ("network", Some(path)) => network = Some(Network::Of(path.into())),
            ("network", None) => network = Some(Network::New),
            ("pid" | "ipc" | "uts" | "mount" | "cgroup" | "user" | "time", None) => {
                pid |= kind == "pid";
                if !kinds.iter().any(|known| known == kind) {
                    kinds.push(kind.to_owned());
                }
            }
            ("pid" | "ipc" | "uts" | "mount" | "cgroup" | "user" | "time", Some(path)) => {
                return Err(BundleError::Unsupported {
                    what: format!("the {kind} namespace {path:?}"),
                    reason: "a namespace of the host, or of another container, cannot be joined from another kernel; \
                             give the container one of its own",
                });
            }
            _ => {
                return Err(wrong(
                    "linux.namespaces[].type",
                    entry.get("type"),
                    "pid, network, ipc, uts, mount, cgroup, user or time",
                ));
            }
        }
    }
    if !pid {
        return Err(BundleError::HostNamespace {
            kind: "pid",
            reason: "the host's processes cannot be shown to another kernel; leave out --pid host",
        });
    }
    let network = network.ok_or(BundleError::HostNamespace {
        kind: "network",
        reason: "the host's network cannot be another kernel's; leave out --network host, and publish ports instead",
    })?;
    kinds.push("network".to_owned());
    let namespaces = kinds.iter().map(|kind| json!({ "type": kind }));
    linux.insert("namespaces".to_owned(), namespaces.collect());
    Ok(network)
}
