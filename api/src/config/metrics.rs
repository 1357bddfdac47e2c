//! Where the VMM's counters go.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::{self, Formatter};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{PathError, check_path};

/// The output of metrics: one line of JSON per flush.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A file or named pipe on the host.
    pub metrics_path: PathBuf,
    /// Whether each line carries the microVM's id in a field `id`.
    #[serde(default)]
    pub emit_id: bool,
    /// Texts of the operator's own that each line carries in a field `properties`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "unique_keys"
    )]
    pub properties: Option<BTreeMap<String, String>>,
}

impl Metrics {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn validate(&self) -> Result<(), PathError> {
        check_path("metrics_path", &self.metrics_path)
    }
}

/// A map in which a key given twice is an error, as it is for fields.
fn unique_keys<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Map;
    impl<'de> de::Visitor<'de> for Map {
        type Value = Option<BTreeMap<String, String>>;

        fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(key) = access.next_key::<String>()? {
                match map.entry(key) {
                    Entry::Vacant(entry) => entry.insert(access.next_value()?),
                    Entry::Occupied(entry) => {
                        return Err(de::Error::custom(format_args!(
                            "duplicate field `{}`",
                            entry.key()
                        )));
                    }
                };
            }
            Ok(Some(map))
        }
    }
    deserializer.deserialize_any(Map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_properties() {
        let metrics: Metrics = serde_json::from_str(r#"{"metrics_path":"m"}"#).unwrap();
        assert_eq!((metrics.emit_id, metrics.properties), (false, None));
        let metrics: Metrics =
            serde_json::from_str(r#"{"metrics_path":"m","emit_id":true,"properties":{"az":"1"}}"#).unwrap();
        assert_eq!(metrics.properties.unwrap()["az"], "1");
        assert!(serde_json::from_str::<Metrics>(r#"{"metrics_path":"m","properties":null}"#).is_ok());
    }

    #[test]
    fn a_property_given_twice_is_refused() {
        let text = r#"{"metrics_path":"m","properties":{"a":"1","a":"2"}}"#;
        let err = serde_json::from_str::<Metrics>(text).unwrap_err();
        assert!(err.to_string().starts_with("duplicate field `a`"), "{err}");
    }
}
