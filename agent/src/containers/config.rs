//! `config.json` as the host sends it, made into what the runtime gets: root
//! and cgroup are the agent's to say.

use koya_proto::MAX_JSON;
use libcontainer::oci_spec::runtime::{Process, Spec};
use serde_json::{Map, Value};

use crate::error::{Result, invalid};

/// A container's configuration.
#[derive(Debug)]
pub struct Config {
    json: Value,
    terminal: bool,
}

impl Config {
    /// Reads and checks it.
    pub fn parse(bytes: &[u8], root: &str, cgroup: &str) -> Result<Self> {
        let mut json = parse_object("config", bytes)?;
        let process = json.get("process").and_then(Value::as_object);
        let process = process
            .ok_or_else(|| invalid("config.process is missing; want the object of the process to run"))?;
        let terminal = check_process("config.process", process)?;
        let read_only = json
            .get("root")
            .and_then(|root| root.get("readonly"))
            .cloned()
            .unwrap_or(Value::Bool(false));
        json.insert(
            "root".to_owned(),
            serde_json::json!({ "path": root, "readonly": read_only }),
        );
        // Hooks name programs of whoever wrote them: the host, which runs them.
        json.remove("hooks");
        let linux = json.entry("linux").or_insert_with(|| Value::Object(Map::new()));
        let linux = linux
            .as_object_mut()
            .ok_or_else(|| invalid("config.linux is not an object"))?;
        linux.insert("cgroupsPath".to_owned(), cgroup.into());
        let json = Value::Object(json);
        // Types and names of everything else, before anything is mounted.
        let _: Spec = typed("config", &json)?;
        Ok(Self { json, terminal })
    }

    /// Does its process have a terminal?
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// As a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.json.to_string().into_bytes()
    }
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

    const GOOD: &str = r#"{
        "ociVersion": "1.2.0",
        "process": { "terminal": true, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "args": ["sh"] },
        "root": { "path": "elsewhere", "readonly": true },
        "hooks": { "poststop": [{ "path": "/bin/evil" }] },
        "linux": { "cgroupsPath": "/../..", "namespaces": [{ "type": "pid" }] }
    }"#;

    #[test]
    fn root_and_cgroup_are_the_agents() {
        let config = Config::parse(GOOD.as_bytes(), "/run/rootfs", "/koya/web").unwrap();
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
    #[allow(clippy::arithmetic_side_effects)]
    fn what_is_wrong_is_named() {
        let refused = |from: &str, to: &str| {
            let text = GOOD.replace(from, to);
            Config::parse(text.as_bytes(), "/r", "/c").unwrap_err().message
        };
        assert!(refused("{", "[").contains("not JSON"));
        assert!(refused("\"process\"", "\"prozess\"").contains("config.process is missing"));
        assert!(refused(r#"["sh"]"#, "[]").contains("config.process.args"));
        assert!(refused(r#""terminal": true"#, r#""terminal": 1"#).contains("config.process.terminal"));
        assert!(refused(r#""uid": 0"#, r#""uid": -1"#).contains("OCI"));
        assert!(
            Config::parse(&vec![b' '; MAX_JSON + 1], "/r", "/c")
                .unwrap_err()
                .message
                .contains("at most")
        );
    }
}
