//! `openapi.yaml` against the code: the same operations, the same fields, the same enumerations, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use super::{OPERATIONS, actions, parse};
use crate::action::VmStateChange;
use crate::config::*;
use crate::error::Fault;
use crate::instance::{FIRECRACKER_API_VERSION, InstanceInfo, VersionInfo};

fn document() -> Value {
    let documents = YamlLoader::load_from_str(include_str!("../../openapi.yaml")).unwrap();
    assert_eq!(documents.len(), 1);
    value(&documents[0])
}

/// The JSON that a YAML node means.
fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => json!(text),
        Yaml::Integer(number) => json!(number),
        Yaml::Boolean(truth) => json!(truth),
        Yaml::Array(items) => items.iter().map(value).collect(),
        Yaml::Hash(map) => map
            .iter()
            .map(|(key, inner)| (key.as_str().unwrap().to_owned(), value(inner)))
            .collect(),
        other => panic!("not in this document: {other:?}"),
    }
}

/// Learns a type's fields from what its derived code asks for.
struct Fields;

#[derive(Debug)]
struct Asked(&'static [&'static str]);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Asked {}

impl de::Error for Asked {
    fn custom<T: fmt::Display>(message: T) -> Self {
        panic!("no struct: {message}")
    }
}

impl<'de> Deserializer<'de> for Fields {
    type Error = Asked;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Asked> {
        panic!("no struct")
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Asked> {
        Err(Asked(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What a test can do with a type without knowing it.
struct Shape {
    fields: BTreeSet<&'static str>,
    read: fn(&Value) -> Result<(), String>,
}

fn shape<T: DeserializeOwned + fmt::Debug>() -> Shape {
    Shape {
        fields: T::deserialize(Fields).unwrap_err().0.iter().copied().collect(),
        read: |value| {
            serde_json::from_value::<T>(value.clone())
                .map(drop)
                .map_err(|err| err.to_string())
        },
    }
}

/// The schemas with properties, and the types they describe.
fn shapes() -> BTreeMap<&'static str, Shape> {
    BTreeMap::from([
        ("InstanceInfo", shape::<InstanceInfo>()),
        ("Version", shape::<VersionInfo>()),
        ("MachineConfig", shape::<MachineConfig>()),
        ("MachineConfigUpdate", shape::<MachineConfigUpdate>()),
        ("BootSource", shape::<BootSource>()),
        ("Drive", shape::<Drive>()),
        ("DriveUpdate", shape::<DriveUpdate>()),
        ("NetworkInterface", shape::<NetworkInterface>()),
        ("NetworkInterfaceUpdate", shape::<NetworkInterfaceUpdate>()),
        ("SharedFolder", shape::<SharedFolder>()),
        ("RateLimiter", shape::<RateLimiter>()),
        ("TokenBucket", shape::<TokenBucket>()),
        ("InstanceAction", shape::<actions::InstanceAction>()),
        ("VmStateChange", shape::<VmStateChange>()),
        ("Logger", shape::<Logger>()),
        ("Metrics", shape::<Metrics>()),
        ("Entropy", shape::<Entropy>()),
        ("Serial", shape::<Serial>()),
        ("Vsock", shape::<Vsock>()),
        ("SnapshotCreate", shape::<SnapshotCreate>()),
        ("WorkingSetNote", shape::<WorkingSetNote>()),
        ("SnapshotLoad", shape::<SnapshotLoad>()),
        ("SnapshotSource", shape::<SnapshotSource>()),
        ("MemoryBackend", shape::<MemoryBackend>()),
        ("NetworkOverride", shape::<NetworkOverride>()),
        ("VsockOverride", shape::<VsockOverride>()),
        ("VmConfig", shape::<VmConfig>()),
    ])
}

/// Follows a reference.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(target) => {
            let pointer = target.strip_prefix('#').unwrap();
            document
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{target} leads nowhere"))
        }
        None => schema,
    }
}

/// A value that fits the schema, with everything in it, or only what is required.
fn example(document: &Value, schema: &Value, whole: bool) -> Value {
    let schema = resolve(document, schema);
    if let Some(variant) = schema["enum"].get(0) {
        return variant.clone();
    }
    match schema["type"].as_str() {
        Some("string") => schema.get("example").cloned().unwrap_or_else(|| json!("a1")),
        Some("integer") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(false),
        Some("array") => json!([example(document, &schema["items"], whole)]),
        Some("object") => {
            let required = required(schema);
            let none = Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&none);
            let wanted = properties
                .iter()
                .filter(|(name, _)| whole || required.contains(name.as_str()));
            wanted
                .map(|(name, inner)| (name.clone(), example(document, inner, whole)))
                .collect()
        }
        _ => Value::Null,
    }
}

fn required(schema: &Value) -> BTreeSet<&str> {
    schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| name.as_str().unwrap())
        .collect()
}

#[test]
fn the_operations_are_the_same() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
        {
            described.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let served: BTreeSet<String> = OPERATIONS
        .iter()
        .map(|operation| format!("{} {}", operation.method.as_str(), operation.path))
        .collect();
    assert_eq!(described, served);
    assert_eq!(document["info"]["version"], FIRECRACKER_API_VERSION);
}

#[test]
fn every_described_request_reaches_its_endpoint() {
    let document = document();
    for operation in OPERATIONS {
        let described = &document["paths"][operation.path][operation.method.as_str().to_lowercase()];
        let name = format!("{} {}", operation.method.as_str(), operation.path);
        let schema = &described["requestBody"]["content"]["application/json"]["schema"];
        let mut body = example(&document, schema, true);
        if let Some(drive) = body.as_object_mut()
            && drive.contains_key("drive_id")
        {
            // Fields that exclude each other.
            drive.remove("socket");
        }
        if let Some(load) = body.as_object_mut()
            && load.contains_key("mem_backend")
        {
            load.remove("mem_file_path");
        }
        let bytes = (!body.is_null()).then(|| body.to_string());
        let path = operation
            .path
            .replace("{drive_id}", "a1")
            .replace("{iface_id}", "a1")
            .replace("{folder_id}", "a1");
        let parsed = parse(operation.method, &path, bytes.as_deref().map(str::as_bytes));
        assert!(parsed.is_ok(), "{name}: {parsed:?} for {body}");

        let responses = described["responses"].as_object().unwrap();
        let success = if operation.path_reads() { "200" } else { "204" };
        let codes: Vec<&str> = responses.keys().map(String::as_str).collect();
        assert_eq!(codes, [success, "default"], "{name}");
        let fault = resolve(&document, &responses["default"]);
        assert_eq!(
            fault["content"]["application/json"]["schema"]["$ref"],
            "#/components/schemas/Error"
        );
    }
}

impl super::Operation {
    fn path_reads(&self) -> bool {
        self.method == crate::http::Method::Get
    }
}

#[test]
fn the_fields_are_the_same() {
    let document = document();
    let shapes = shapes();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let Some(properties) = schema["properties"].as_object() else {
            continue;
        };
        let described: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        if name == "Error" {
            // Only ever written.
            let fault = serde_json::to_value(Fault::new("x")).unwrap();
            assert!(described.iter().copied().eq(fault.as_object().unwrap().keys()));
            continue;
        }
        let shape = shapes
            .get(name.as_str())
            .unwrap_or_else(|| panic!("no type for the schema {name}"));
        assert_eq!(described, shape.fields, "{name}");
    }
    for name in shapes.keys() {
        assert!(
            document["components"]["schemas"][name]["properties"].is_object(),
            "no schema {name}"
        );
    }
}

#[test]
fn what_is_required_is_the_same() {
    let document = document();
    for (name, shape) in shapes() {
        let schema = &document["components"]["schemas"][name];
        let least = example(&document, schema, false);
        assert_eq!(
            (shape.read)(&least),
            Ok(()),
            "{name} with only what is required: {least}"
        );
        let all = example(&document, schema, true);
        assert_eq!((shape.read)(&all), Ok(()), "{name} with everything: {all}");
        for field in required(schema) {
            let mut without = least.clone();
            without.as_object_mut().unwrap().remove(field);
            let err = (shape.read)(&without).unwrap_err();
            assert!(
                err.contains(&format!("missing field `{field}`")),
                "{name} without {field}: {err}"
            );
        }
    }
}

#[test]
fn the_enumerations_are_the_same() {
    let document = document();
    let mut seen = 0;
    for (name, shape) in shapes() {
        let schema = &document["components"]["schemas"][name];
        for (field, inner) in schema["properties"].as_object().unwrap() {
            let Some(variants) = resolve(&document, inner)["enum"].as_array() else {
                continue;
            };
            seen += 1;
            let mut value = example(&document, schema, false);
            for variant in variants {
                value[field] = variant.clone();
                assert_eq!((shape.read)(&value), Ok(()), "{name}.{field}: {variant}");
            }
            value[field] = json!("something else");
            let err = (shape.read)(&value).unwrap_err();
            // `unknown variant …, expected one of `A`, `B``: the code's own list.
            if let Some((_, expected)) = err.split_once("expected ") {
                let known: BTreeSet<&str> = expected.split('`').skip(1).step_by(2).collect();
                let described: BTreeSet<&str> = variants.iter().map(|v| v.as_str().unwrap()).collect();
                assert_eq!(described, known, "{name}.{field}");
            }
        }
    }
    assert_eq!(seen, 12);
}

#[test]
fn the_bounds_of_numbers_hold() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    for (name, field, path) in [
        ("MachineConfig", "vcpu_count", "/machine-config"),
        ("MachineConfig", "mem_size_mib", "/machine-config"),
        ("NetworkInterface", "mtu", "/network-interfaces/a1"),
    ] {
        let bounds = &schemas[name]["properties"][field];
        let accepted = |number: u64| {
            let mut body = example(&document, &schemas[name], false);
            body[field] = number.into();
            parse(crate::http::Method::Put, path, Some(body.to_string().as_bytes())).is_ok()
        };
        let least = bounds["minimum"].as_u64().unwrap();
        assert!(
            accepted(least) && !accepted(least.checked_sub(1).unwrap()),
            "{name}.{field}"
        );
        if let Some(most) = bounds["maximum"].as_u64() {
            assert!(
                accepted(most) && !accepted(most.checked_add(1).unwrap()),
                "{name}.{field}"
            );
        }
    }
}
