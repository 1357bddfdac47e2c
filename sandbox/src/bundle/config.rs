//! Reading `config.json`, and what of it stays on the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{BundleError, MAX_CONFIG, left_out};
use crate::settings::{Annotation, Settings};

/// A configuration.
pub(super) type Config = Map<String, Value>;

/// Annotations that mean something to the agent. All others stay on the host: whoever may set annotations is not
/// thereby allowed to configure the guest.
const PASSED_ON: [&str; 1] = [Annotation::System.name()];

pub(super) fn read(path: &Path) -> Result<Config, BundleError> {
    let failed = |source| BundleError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MAX_CONFIG {
        let path = path.to_owned();
        return Err(BundleError::TooLarge { path, bytes });
    }
    let mut text = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut text).map_err(failed)?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(other) => Err(wrong("the whole file", Some(&other), "an object")),
        Err(source) => Err(BundleError::Json {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The version of the specification.
pub(super) fn version(config: &Config) -> Result<String, BundleError> {
    let version = config.get("ociVersion");
    let text = version
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("ociVersion", version, "text as \"1.2.0\""))?;
    // What 1.0, 1.1 and 1.2 have in common is read. Three numbers, as semantic versioning has it.
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = core.split('.').map(|number| number.parse().ok()).collect();
    match matches!(numbers.as_deref(), Some([1, 0..=2, _])) {
        true => Ok(text.to_owned()),
        false => Err(BundleError::Version(text.chars().take(64).collect())),
    }
}

/// Refuses annotations of Koya's that the operator does not want to count.
pub(super) fn is_allowed(config: &Config, settings: &Settings) -> Result<(), BundleError> {
    let annotations = config.get("annotations");
    let is_there = |annotation: &Annotation| annotations.and_then(|all| all.get(annotation.name())).is_some();
    let mut refused = Annotation::ALL
        .into_iter()
        .filter(|annotation| !settings.allows(*annotation));
    match refused.find(is_there) {
        None => Ok(()),
        Some(annotation) => Err(BundleError::Unsupported {
            what: format!("annotations[{:?}]", annotation.name()),
            reason: "the operator of this host does not allow it: want its name in the list `annotations` of \
                     /etc/koya/config.toml",
        }),
    }
}

/// All annotations; those that are no business of the agent's are taken out.
pub(super) fn annotations(config: &mut Config) -> Result<BTreeMap<String, String>, BundleError> {
    let Some(value) = config.get_mut("annotations") else {
        return Ok(BTreeMap::new());
    };
    if value.is_null() {
        config.remove("annotations");
        return Ok(BTreeMap::new());
    }
    let Some(map) = value.as_object_mut() else {
        return Err(wrong("annotations", Some(value), "an object of texts"));
    };
    let mut all = BTreeMap::new();
    for (name, value) in map.iter() {
        let text = value
            .as_str()
            .ok_or_else(|| wrong("annotations", Some(value), "an object of texts"))?;
        if name.is_empty() {
            return Err(wrong(
                "a key of annotations",
                Some(&Value::from("")),
                "one that says something",
            ));
        }
        all.insert(name.clone(), text.to_owned());
    }
    map.retain(|name, _| PASSED_ON.contains(&name.as_str()));
    Ok(all)
}

/// Takes out the rest that is of the host; the cgroup's name on it.
pub(super) fn tidy(config: &mut Config) -> Option<String> {
    // The root's path is the agent's to say.
    let read_only = config.get("root").and_then(|root| root.get("readonly")).cloned();
    config.insert(
        "root".to_owned(),
        json!({ "path": "rootfs", "readonly": read_only.unwrap_or(Value::Bool(false)) }),
    );
    for other in ["solaris", "windows", "vm", "zos"] {
        config.remove(other);
    }
    let linux = config.get_mut("linux").and_then(Value::as_object_mut)?;
    for name in left_out::LINUX {
        linux.remove(name);
    }
    recursive(linux);
    let path = linux.remove("cgroupsPath")?;
    path.as_str().filter(|path| !path.is_empty()).map(str::to_owned)
}

/// docker writes `rslave` where the specification has `slave`; both mean the whole tree.
fn recursive(linux: &mut Config) {
    let propagation = linux.get("rootfsPropagation").and_then(Value::as_str);
    let plain = propagation
        .and_then(|kind| kind.strip_prefix('r'))
        .map(Value::from);
    if let Some(plain) = plain {
        linux.insert("rootfsPropagation".to_owned(), plain);
    }
}

/// An error about a field.
pub(super) fn wrong(field: impl Into<String>, found: Option<&Value>, wanted: &'static str) -> BundleError {
    let found = match found {
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "true or false",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(text)) if text.is_empty() => "empty",
        Some(Value::String(_)) => "a text",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    };
    BundleError::Field {
        field: field.into(),
        found,
        wanted,
    }
}

/// The `linux` object, made if it is not there.
pub(super) fn linux(config: &mut Config) -> Result<&mut Config, BundleError> {
    let linux = config.entry("linux").or_insert_with(|| json!({}));
    if linux.is_null() {
        *linux = json!({});
    }
    match linux {
        Value::Object(fields) => Ok(fields),
        other => Err(wrong("linux", Some(other), "an object")),
    }
}

/// A list of objects in an object; none if it is missing or null.
pub(super) fn list<'a>(fields: &'a Config, name: &str, path: &str) -> Result<Vec<&'a Config>, BundleError> {
    const WANTED: &str = "a list of objects";
    let entries = match fields.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        other => return Err(wrong(path, other, WANTED)),
    };
    let object = |entry: &'a Value| {
        let object = entry.as_object();
        object.ok_or_else(|| wrong(path, Some(entry), WANTED))
    };
    entries.iter().map(object).collect()
}
