//! Namespaces: the network's is taken over, the others are the guest's to make. Those of a container that is in a guest
//! already are shared with it there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::BundleError;
use super::config::{Config, linux, list, wrong};
use super::neighbours::{Neighbour, Neighbours, number, process};
use super::size::is_of_kubernetes;

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

/// What the guest names that belongs to another container of it (see `CreateRequest` of the agent's protocol).
const CONTAINER: &str = "container:";

/// The namespaces that a bundle asks for.
#[derive(Default)]
struct Asked {
    /// Those that the guest makes, and those of another container of it.
    kinds: Vec<(String, Option<String>)>,
    network: Option<Network>,
    pid: bool,
    /// The container whose microVM it is.
    house: Option<String>,
    /// The memory of the one whose IPC namespace it shares.
    memory: Option<String>,
}

/// What is found out by them.
pub(super) struct Found {
    /// Where the network comes from.
    pub network: Network,
    /// Whether somebody may furnish it when the container has been created.
    pub late: bool,
    /// The container whose microVM this one is put in, if it shares namespaces with one.
    pub house: Option<String>,
    /// The name of the memory that it shares, if it does.
    pub memory: Option<String>,
}

/// Leaves in `linux.namespaces` what the guest makes or has.
pub(super) fn translate(config: &mut Config, neighbours: &Neighbours) -> Result<Found, BundleError> {
    let of_kubernetes = is_of_kubernetes(config);
    let linux = linux(config)?;
    let mut asked = Asked::default();
    let entries = list(linux, "namespaces", "linux.namespaces")?;
    // The network first: it decides which microVM it is.
    let is_network = |entry: &&&Config| entry.get("type").and_then(Value::as_str) == Some("network");
    for entry in entries.iter().filter(is_network) {
        asked.add(entry, neighbours)?;
    }
    for entry in entries.iter().filter(|entry| !is_network(entry)) {
        asked.add(entry, neighbours)?;
    }
    if !asked.pid {
        return Err(BundleError::HostNamespace {
            kind: "pid",
            reason: "the host's processes cannot be shown to another kernel; leave out --pid host",
        });
    }
    let network = asked.network.ok_or(BundleError::HostNamespace {
        kind: "network",
        reason: "the host's network cannot be another kernel's; leave out --network host, and publish ports instead",
    })?;
    // Others that say nothing want nothing of it. Kubernetes says nothing if a pod is to share the host's.
    if of_kubernetes && !asked.kinds.iter().any(|(known, _)| known == "ipc") {
        return Err(BundleError::HostNamespace {
            kind: "ipc",
            reason: "the host's shared memory cannot be another kernel's; leave out hostIPC (podman: --ipc host)",
        });
    }
    for own in OWN {
        if !asked.kinds.iter().any(|(known, _)| known == own) {
            asked.kinds.push((own.to_owned(), None));
        }
    }
    let namespaces = asked.kinds.iter().map(|(kind, of)| match of {
        None => json!({ "type": kind }),
        Some(id) => json!({ "type": kind, "path": format!("{CONTAINER}{id}") }),
    });
    linux.insert("namespaces".to_owned(), namespaces.collect());
    let late = network == Network::New && asked.kinds.iter().any(|(kind, _)| kind == "user");
    Ok(Found {
        network,
        late,
        house: asked.house,
        memory: asked.memory,
    })
}

impl Asked {
    fn add(&mut self, entry: &Config, neighbours: &Neighbours) -> Result<(), BundleError> {
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
            Some(Value::String(path)) if path.starts_with('/') => Some(Path::new(path)),
            other => return Err(wrong("linux.namespaces[].path", other, "an absolute path")),
        };
        let of = match (kind, path) {
            ("network", Some(path)) => {
                self.network = Some(Network::Of(path.into()));
                match neighbours.of_network(path) {
                    Some(neighbour) => {
                        self.house = Some(neighbour.house.clone());
                        Some(neighbour.id.clone())
                    }
                    None => {
                        check(path)?;
                        None
                    }
                }
            }
            ("network", None) => {
                self.network = Some(Network::New);
                None
            }
            ("pid" | "ipc" | "uts" | "mount" | "cgroup" | "user" | "time", None) => None,
            ("pid" | "ipc" | "uts", Some(path)) => {
                let neighbour = self.shared(kind, path, neighbours)?;
                if kind == "ipc" {
                    self.memory = Some(neighbour.memory.clone());
                }
                Some(neighbour.id.clone())
            }
            ("mount" | "cgroup" | "user" | "time", Some(path)) => {
                return Err(BundleError::Unsupported {
                    what: format!("the {kind} namespace {path:?}"),
                    reason: "a namespace of this kind cannot be joined from another kernel; give the container one of \
                             its own",
                });
            }
            _ => {
                return Err(BundleError::Unsupported {
                    what: format!("linux.namespaces[].type is {kind:?}"),
                    reason: "want pid, network, ipc, uts, mount, cgroup, user or time",
                });
            }
        };
        if self.kinds.iter().any(|(known, _)| known == kind) {
            return Err(BundleError::Unsupported {
                what: format!("linux.namespaces has two of the type {kind:?}"),
                reason: "a container has one of each",
            });
        }
        self.pid |= kind == "pid";
        self.kinds.push((kind.to_owned(), of));
        Ok(())
    }

    /// Whose namespace of the guest is meant by a path of the host.
    fn shared<'a>(
        &self,
        kind: &str,
        path: &Path,
        neighbours: &'a Neighbours,
    ) -> Result<&'a Neighbour, BundleError> {
        let refused = |reason| {
            let what = format!("the {kind} namespace {path:?}");
            Err(BundleError::Unsupported { what, reason })
        };
        let found = match (&self.house, neighbours.of_process(path), process(path)) {
            (None, Some(_), _) => {
                return refused(
                    "a microVM's network is given to it before it boots, so that a container with one of its own has a \
                     microVM of its own; share the other container's network, too",
                );
            }
            (Some(house), Some(neighbour), _) if neighbour.house == *house => Some(neighbour),
            (Some(_), Some(_), _) => {
                return refused("it is that of a container in another microVM than the network is of");
            }
            // Engines may keep a pod's namespaces under names, too.
            (Some(house), None, None) => neighbours.first_of(house),
            (_, None, _) => None,
        };
        match found {
            Some(neighbour) => Ok(neighbour),
            None => refused(
                "a namespace of the host, or of a container that is not Koya's, cannot be joined from another kernel; \
                 give the container one of its own",
            ),
        }
    }
}

/// Whether a network namespace can be taken over: whoever else is in it hears nothing any more.
fn check(path: &Path) -> Result<(), BundleError> {
    let what = format!("the network namespace {path:?}");
    // Engines name so what another container has.
    if process(path).is_some() {
        return Err(BundleError::Unsupported {
            what,
            reason: "it is that of a running process which is no container of Koya's, and a microVM takes all that \
                     arrives there for itself; give the container a network of its own",
        });
    }
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
