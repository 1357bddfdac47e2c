//! `config.json` as the host sends it, made into what the runtime gets: root
//! and cgroup are the agent's to say.

use std::path::{Path, PathBuf};

use koya_proto::MAX_JSON;
use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, Process, Spec};
use serde_json::{Map, Value, json};

use super::container::Others;
use super::idmap::IdMap;
use super::joined;
use super::limits;
use super::mounts;
use super::named;
use super::seccomp;
use super::stores;
use crate::error::{Result, invalid};
use crate::helper::{Change, Filter};

/// Set to "true" among the annotations of a system container: one whose first
/// process is a distribution's init.
const SYSTEM: &str = "dev.koya.system";

/// A container's configuration.
#[derive(Debug)]
pub struct Config {
    json: Value,
    process: Value,
    terminal: bool,
    system: bool,
    id_map: Option<IdMap>,
    filter: Filter,
    changes: Vec<Change>,
    devices: Vec<LinuxDeviceCgroup>,
}

/// A configuration of which no more is checked than its process: what has to be
/// known before anything that may have to be waited for.
#[derive(Debug)]
pub struct Draft {
    json: Map<String, Value>,
    terminal: bool,
}

impl Draft {
    /// Reads it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let json = parse_object("config", bytes)?;
        let process = json.get("process").and_then(Value::as_object);
        let process = process
            .ok_or_else(|| invalid("config.process is missing; want the object of the process to run"))?;
        let terminal = check_process("config.process", process)?;
        Ok(Self { json, terminal })
    }

    /// Does its process have a terminal?
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Checks the rest, waits for the disks that it names, and finds what it has in common with others.
    pub fn finish(self, cgroup: &str, others: Others<'_>) -> Result<Config> {
        let Self { mut json, terminal } = self;
        let read_only = json
            .get("root")
            .and_then(|root| root.get("readonly"))
            .cloned()
            .unwrap_or(Value::Bool(false));
        json.insert(
            "root".to_owned(),
            serde_json::json!({ "path": "rootfs", "readonly": read_only }),
        );
        // Hooks name programs of whoever wrote them: the host, which runs them.
        json.remove("hooks");
        let annotations = json.get("annotations");
        let system = annotations
            .and_then(|all| all.get(SYSTEM))
            .and_then(Value::as_str)
            == Some("true");
        let linux = json.entry("linux").or_insert_with(|| Value::Object(Map::new()));
        let id_map = IdMap::of(linux)?;
        named::in_devices(linux)?;
        if let Some(resources) = linux.get_mut("resources") {
            limits::prepare(resources)?;
        }
        let linux = linux
            .as_object_mut()
            .ok_or_else(|| invalid("config.linux is not an object"))?;
        linux.insert("cgroupsPath".to_owned(), cgroup.into());
        joined::join(linux, others)?;
        joined::share_memory(&mut json)?;
        named::in_mounts(&mut json)?;
        let changes = mounts::take_changes(&mut json)?;
        let mut json = Value::Object(json);
        // Types and names of everything else, before anything is mounted.
        let spec: Spec = typed("config", &json)?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let devices = resources.and_then(|resources| resources.devices().clone());
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let filter = profile.map_or_else(|| Ok(Filter::default()), seccomp::compile)?;
        let process = take_process(&mut json);
        if let Some(linux) = json.get_mut("linux").and_then(Value::as_object_mut) {
            // The helper's, as is the process's identity.
            linux.remove("seccomp");
        }
        Ok(Config {
            json,
            process,
            terminal,
            system,
            id_map,
            filter,
            changes,
            devices: devices.unwrap_or_default(),
        })
    }
}

impl Config {
    /// Names the folder of its root file system.
    pub fn set_root(&mut self, root: &Path) {
        if let Some(fields) = self.json.get_mut("root").and_then(Value::as_object_mut) {
            fields.insert("path".to_owned(), root.to_string_lossy().into());
        }
    }

    /// Puts bind mounts of the folders that `folder` answers in the places of mounts of the type `scratch`; those that
    /// it has no folder for are left out.
    pub fn place_stores(&mut self, mut folder: impl FnMut(&str) -> Result<Option<PathBuf>>) -> Result<()> {
        let Some(mounts) = self.json.get_mut("mounts").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        let is_store = |mount: &Value| mount.get("type").and_then(Value::as_str) == Some(stores::KIND);
        if mounts.iter().filter(|mount| is_store(mount)).count() > stores::MAX {
            return Err(invalid(format!(
                "config.mounts has more than {} of type '{}'",
                stores::MAX,
                stores::KIND
            )));
        }
        let mut placed = Vec::new();
        for mount in mounts.drain(..) {
            if !is_store(&mount) {
                placed.push(mount);
                continue;
            }
            let at = mount
                .get("destination")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if let Some(source) = folder(at)? {
                placed.push(
                    json!({ "destination": at, "type": "bind", "source": source, "options": ["bind"] }),
                );
            }
        }
        *mounts = placed;
        Ok(())
    }

    /// Adds mounts after those that it has.
    pub fn add_mounts(&mut self, mounts: Vec<Value>) {
        if let Some(fields) = self.json.as_object_mut() {
            let all = fields.entry("mounts").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(all) = all.as_array_mut() {
                all.extend(mounts);
            }
        }
    }

    /// Does its process have a terminal?
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Is its first process a distribution's init?
    pub fn system(&self) -> bool {
        self.system
    }

    /// Which ids of the guest its users have, if it has a user namespace.
    pub fn id_map(&self) -> Option<&IdMap> {
        self.id_map.as_ref()
    }

    /// The filter of system calls; see [`crate::helper::Identity::filter`].
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// What is to be done to its mounts when all are there.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Rules for devices; none: every device is allowed.
    pub fn devices(&self) -> &[LinuxDeviceCgroup] {
        &self.devices
    }

    /// Its first process's object, as the host sent it.
    pub fn process(&self) -> &Value {
        &self.process
    }

    /// As a file for libcontainer.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.json.to_string().into_bytes()
    }
}

/// The process object; in its place stays one for libcontainer, which gives the
/// process no identity: that is the helper's, and the same for every process.
fn take_process(json: &mut Value) -> Value {
    let Some(process) = json.get_mut("process") else {
        return Value::Null;
    };
    let whole = process.clone();
    if let Some(fields) = process.as_object_mut() {
        for name in ["capabilities", "noNewPrivileges", "rlimits"] {
            fields.remove(name);
        }
        fields.insert("user".to_owned(), serde_json::json!({ "uid": 0, "gid": 0 }));
    }
    whole
}

/// Reads and checks the process object of Exec; answers whether it has a terminal.
pub fn parse_process(bytes: &[u8]) -> Result<(Value, bool)> {
    let process = parse_object("process", bytes)?;
    let terminal = check_process("process", &process)?;
    let json = Value::Object(process);
    let _: Process = typed("process", &json)?;
    Ok((json, terminal))
}

fn parse_object(what: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes.len() > MAX_JSON {
        return Err(invalid(format!(
            "{what} has {} bytes; at most {MAX_JSON} are taken",
            bytes.len()
        )));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid(format!("{what} is not a JSON object"))),
        Err(error) => Err(invalid(format!("{what} is not JSON: {error}"))),
    }
}

fn check_process(what: &str, process: &Map<String, Value>) -> Result<bool> {
    let first = process
        .get("args")
        .and_then(Value::as_array)
        .and_then(|list| list.first());
    if first.and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(invalid(format!(
            "{what}.args is missing or empty; its first element is the program to run"
        )));
    }
    match process.get("terminal") {
        None => Ok(false),
        Some(Value::Bool(terminal)) => Ok(*terminal),
        Some(_) => Err(invalid(format!("{what}.terminal is neither true nor false"))),
    }
}

fn typed<T: serde::de::DeserializeOwned>(what: &str, json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|error| {
        invalid(format!(
            "{what} is not what the OCI runtime specification describes: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8], cgroup: &str) -> Result<Config> {
        Draft::parse(bytes)?.finish(cgroup, &|_| Ok(1))
    }

    const GOOD: &str = r#"{
        "ociVersion": "1.2.0",
        "process": { "terminal": true, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "args": ["sh"] },
        "root": { "path": "elsewhere", "readonly": true },
        "hooks": { "poststop": [{ "path": "/bin/evil" }] },
        "linux": { "cgroupsPath": "/../..", "namespaces": [{ "type": "pid" }] }
    }"#;

    #[test]
    fn root_and_cgroup_are_the_agents() {
        let mut config = parsed(GOOD.as_bytes(), "/koya/web").unwrap();
        config.set_root(Path::new("/run/rootfs"));
        assert!(config.terminal());
        let json: Value = serde_json::from_slice(&config.to_bytes()).unwrap();
        assert_eq!(
            json["root"],
            serde_json::json!({ "path": "/run/rootfs", "readonly": true })
        );
        assert_eq!(json["linux"]["cgroupsPath"], "/koya/web");
        assert_eq!(json["linux"]["namespaces"][0]["type"], "pid");
        assert_eq!(json.get("hooks"), None);
    }

    #[test]
    fn folders_of_the_scratch_disk_take_their_mounts_places() {
        let mounts = r#""mounts": [
            { "destination": "/a", "type": "scratch" }, { "destination": "/b", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/c", "type": "scratch" }, { "destination": "/d", "type": "proc" }], "hooks":"#;
        let mut config = parsed(GOOD.replace("\"hooks\":", mounts).as_bytes(), "/c").unwrap();
        config
            .place_stores(|at| Ok((at == "/a").then(|| "/s/a".into())))
            .unwrap();
        let json: Value = serde_json::from_slice(&config.to_bytes()).unwrap();
        let places: Vec<_> = json["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| {
                (
                    mount["destination"].as_str().unwrap(),
                    mount["type"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(places, [("/a", "bind"), ("/b", "tmpfs"), ("/d", "proc")]);
        assert_eq!(json["mounts"][0]["source"], "/s/a");
    }

    #[test]
    #[allow(clippy::arithmetic_side_effects)]
    fn what_is_wrong_is_named() {
        let refused = |from: &str, to: &str| {
            let text = GOOD.replace(from, to);
            parsed(text.as_bytes(), "/c").unwrap_err().message
        };
        assert!(refused("{", "[").contains("not JSON"));
        assert!(refused("\"process\"", "\"prozess\"").contains("config.process is missing"));
        assert!(refused(r#"["sh"]"#, "[]").contains("config.process.args"));
        assert!(refused(r#""terminal": true"#, r#""terminal": 1"#).contains("config.process.terminal"));
        assert!(refused(r#""uid": 0"#, r#""uid": -1"#).contains("OCI"));
        assert!(
            parsed(&vec![b' '; MAX_JSON + 1], "/c")
                .unwrap_err()
                .message
                .contains("at most")
        );
    }
}
