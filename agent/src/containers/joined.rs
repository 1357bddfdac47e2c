//! What a container has in common with another one of this guest: namespaces, and memory at `/dev/shm`.
//!
//! A namespace's `path` of the form `container:ID` is that of the first process of another container. A mount of the type
//! `shm` is a tmpfs that all have whose `source` is the same; it lives as long as the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use serde_json::{Map, Value, json};

use super::check_id;
use crate::error::{Result, invalid, limit, storage};

/// What a path begins with that names a container.
const CONTAINER: &str = "container:";
/// Type of a mount that is shared.
const SHARED_MEMORY: &str = "shm";
/// Where those are, each by its name. Nothing else is there.
const PLACE: &str = "/run/koya/shm";
/// More of them than a guest has containers are refused.
const MOST: usize = super::MAX_CONTAINERS;

/// Puts `/proc/PID/ns/KIND` in the places of paths that name a container, whose first process `pid_of` tells.
pub fn join(linux: &mut Map<String, Value>, pid_of: impl Fn(&str) -> Result<u32>) -> Result<()> {
    let namespaces = linux.get_mut("namespaces").and_then(Value::as_array_mut);
    for namespace in namespaces.into_iter().flatten() {
        let path = namespace.get("path").and_then(Value::as_str);
        let Some(id) = path.and_then(|path| path.strip_prefix(CONTAINER)) else {
            continue;
        };
        let kind = namespace.get("type").and_then(Value::as_str).unwrap_or_default();
        let file = match kind {
            "network" => "net",
            "ipc" | "uts" | "pid" => kind,
            _ => {
                return Err(invalid(format!(
                    "config.linux.namespaces: a {kind} namespace cannot be another container's; network, ipc, uts and pid can"
                )));
            }
        };
        let path = format!("/proc/{}/ns/{file}", pid_of(id)?);
        if let Some(namespace) = namespace.as_object_mut() {
            namespace.insert("path".to_owned(), path.into());
        }
    }
    Ok(())
}

/// Puts bind mounts in the places of mounts of shared memory, which is made where it is not there yet.
pub fn share_memory(config: &mut Map<String, Value>) -> Result<()> {
    share_memory_at(config, |name, options| memory(Path::new(PLACE), name, options))
}

fn share_memory_at(
    config: &mut Map<String, Value>,
    memory: impl Fn(&str, &[&str]) -> Result<PathBuf>,
) -> Result<()> {
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    for entry in mounts.into_iter().flatten() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("type") != SHARED_MEMORY {
            continue;
        }
        let (name, at) = (text("source").to_owned(), text("destination").to_owned());
        check_id("config.mounts[].source", &name)?;
        let options = entry.get("options").and_then(Value::as_array);
        let options: Vec<_> = options.into_iter().flatten().filter_map(Value::as_str).collect();
        // Size and mode are the file system's, all else each mount's own.
        let (whole, mut own): (Vec<_>, Vec<_>) = options.iter().partition(|option| option.contains('='));
        let source = memory(&name, &whole)?;
        own.push("rbind");
        *entry = json!({ "destination": at, "type": "bind", "source": source, "options": own });
    }
    Ok(())
}

/// The folder of a shared memory.
fn memory(place: &Path, name: &str, options: &[&str]) -> Result<PathBuf> {
    /// One at a time, so that nobody gets a folder on which nothing is mounted yet.
    static MAKING: Mutex<()> = Mutex::new(());
    let failed = |error: &dyn std::fmt::Display| storage("make shared memory", error);
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = place.join(name);
    if folder.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(place).map_err(|error| failed(&error))?;
    let count = fs::read_dir(place).map_err(|error| failed(&error))?.count();
    if count >= MOST {
        return Err(limit(format!(
            "{MOST} shared memories are there, which is the most"
        )));
    }
    fs::create_dir(&folder).map_err(|error| failed(&error))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = options.join(",");
    mount(Some("shm"), &folder, Some("tmpfs"), flags, Some(options.as_str())).map_err(|errno| {
        let _ = fs::remove_dir(&folder);
        failed(&errno.desc())
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::not_found;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn a_container_names_its_namespaces() {
        let mut linux = object(json!({ "namespaces": [
            { "type": "network", "path": "container:web" }, { "type": "ipc", "path": "container:web" },
            { "type": "pid" }, { "type": "uts", "path": "/proc/1/ns/uts" },
        ] }));
        join(&mut linux, |id| {
            assert_eq!(id, "web");
            Ok(7)
        })
        .unwrap();
        assert_eq!(
            linux["namespaces"],
            json!([
                { "type": "network", "path": "/proc/7/ns/net" }, { "type": "ipc", "path": "/proc/7/ns/ipc" },
                { "type": "pid" }, { "type": "uts", "path": "/proc/1/ns/uts" },
            ])
        );
        for (kind, reason) in [
            ("mount", "cannot be another container's"),
            ("pid", "no container"),
        ] {
            let mut linux = object(json!({ "namespaces": [{ "type": kind, "path": "container:x" }] }));
            let refused = join(&mut linux, |_| {
                Err(not_found("no container 'x' in this guest".to_owned()))
            });
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn memory_is_that_of_all_who_name_it() {
        let mut config = object(json!({ "mounts": [
            { "destination": "/proc", "type": "proc" },
            { "destination": "/dev/shm", "type": "shm", "source": "pod", "options": ["noexec", "size=5", "mode=1777"] },
        ] }));
        share_memory_at(&mut config, |name, options| {
            assert_eq!((name, options), ("pod", &["size=5", "mode=1777"][..]));
            Ok("/m/pod".into())
        })
        .unwrap();
        assert_eq!(
            config["mounts"],
            json!([
                { "destination": "/proc", "type": "proc" },
                { "destination": "/dev/shm", "type": "bind", "source": "/m/pod", "options": ["noexec", "rbind"] },
            ])
        );
        let mut config =
            object(json!({ "mounts": [{ "destination": "/dev/shm", "type": "shm", "source": "../x" }] }));
        let error = share_memory(&mut config).unwrap_err().to_string();
        assert!(error.contains("config.mounts[].source"), "{error}");
    }
}
