//! `api/openapi.yaml`, and whether an answer of the server is what it says.

use std::collections::BTreeSet;

use koya_api::client::ClientResponse;
use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

/// The description of the API.
pub struct Description(Value);

impl Description {
    pub fn read() -> Self {
        let text = include_str!("../../../../api/openapi.yaml");
        Self(value(&YamlLoader::load_from_str(text).unwrap()[0]))
    }

    /// Every operation, as `METHOD /path`.
    pub fn operations(&self) -> BTreeSet<String> {
        let mut operations = BTreeSet::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys();
            operations.extend(
                methods
                    .filter(|key| *key != "parameters")
                    .map(|method| format!("{} {path}", method.to_uppercase())),
            );
        }
        operations
    }

    /// Checks a response of `operation` (`METHOD /path` as above) against its description.
    pub fn check(&self, operation: &str, response: &ClientResponse) {
        let (method, path) = operation.split_once(' ').unwrap();
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let status = response.status.to_string();
        let named = responses.get(&status).is_some();
        assert!(
            named || response.status >= 400,
            "{operation}: {status} is not described"
        );
        let described = self.resolve(&responses[if named { status.as_str() } else { "default" }]);
        let schema = &described["content"]["application/json"]["schema"];
        if schema.is_null() {
            assert!(response.body.is_empty(), "{operation}: {status} has a body");
            return;
        }
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{operation}"
        );
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        if let Err(wrong) = self.fits(schema, &body, "") {
            panic!("{operation} answers {status} {body}: {wrong}");
        }
    }

    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(target) => self.0.pointer(target.strip_prefix('#').unwrap()).unwrap(),
            None => node,
        }
    }

    /// Whether `value`, found at `place`, is what `schema` describes.
    fn fits(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        if value.is_null() && schema["nullable"] == json!(true) {
            return Ok(());
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return parts.iter().try_for_each(|part| self.fits(part, value, place));
        }
        if let Some(variants) = schema["enum"].as_array()
            && !variants.contains(value)
        {
            return Err(format!("{place} is {value}, which is not one of {variants:?}"));
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(_)) => self.fits_object(schema, value, place),
            (Some("array"), Value::Array(items)) => items.iter().enumerate().try_for_each(|(index, item)| {
                self.fits(&schema["items"], item, &format!("{place}[{index}]"))
            }),
            (Some("string"), Value::String(text)) => {
                let length = text.chars().count() as u64;
                in_range(schema, "minLength", "maxLength", length, place)
            }
            (Some("integer"), Value::Number(number)) if number.is_u64() => {
                in_range(schema, "minimum", "maximum", number.as_u64().unwrap(), place)
            }
            (Some("boolean"), Value::Bool(_)) => Ok(()),
            // Parts that are not there yet: null or an empty list.
            (None, value) if value == &json!([]) => Ok(()),
            (kind, value) => Err(format!("{place} is {value}, not {kind:?}")),
        }
    }

    fn fits_object(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap()).is_none() {
                return Err(format!("{place} lacks {name}"));
            }
        }
        for (name, member) in value.as_object().unwrap() {
            let inner = schema["properties"]
                .get(name)
                .or_else(|| schema.get("additionalProperties"))
                .ok_or_else(|| format!("{place}.{name} is not described"))?;
            self.fits(inner, member, &format!("{place}.{name}"))?;
        }
        Ok(())
    }
}

fn in_range(schema: &Value, least: &str, most: &str, value: u64, place: &str) -> Result<(), String> {
    let least = schema[least].as_u64().unwrap_or(0);
    let most = schema[most].as_u64().unwrap_or(u64::MAX);
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{place}: {value} is not in {least} to {most}"))
    }
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
