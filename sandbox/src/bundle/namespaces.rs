//! Namespaces: the network's is taken over, the others are the guest's to make.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

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
    /// One that somebody has made for it: `/run/netns/NAME`.
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
            ("network", Some(path)) => {
                check(Path::new(path))?;
                network = Some(Network::Of(path.into()));
            }
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

/// Whether a network namespace can be taken over: whoever else is in it hears nothing any more.
fn check(path: &Path) -> Result<(), BundleError> {
    let what = format!("the network namespace {path:?}");
    // Engines name so what another container has.
    let parts: Vec<_> = path.components().skip(1).take(2).collect();
    let of_process = match parts.as_slice() {
        [Component::Normal(proc), Component::Normal(pid)] if *proc == "proc" => pid
            .to_str()
            .is_some_and(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())),
        _ => false,
    };
    if of_process {
        return Err(BundleError::Unsupported {
            what,
            reason: "it is that of a running process, as --network container:ID names it, and a microVM takes all that \
                     arrives there for itself; give the container a network of its own",
        });
    }
    let number = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
    // One that is not there is told of when it is opened.
    if let (Ok(wanted), Ok(own)) = (number(path), number(Path::new("/proc/self/ns/net")))
        && wanted == own
    {
        return Err(BundleError::Unsupported {
            what,
            reason: "it is the host's, and the host's network cannot be another kernel's; give the container a network \
                     of its own, and publish ports instead",
        });
    }
    Ok(())
}
