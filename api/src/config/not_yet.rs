//! Parts of Firecracker's configuration that Koya does not have yet.

use std::fmt::{self, Formatter};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A key that is accepted while it asks for nothing (`null`, or an empty list) and refused otherwise.
///
/// A file written out in full lists every key Firecracker knows, most of them `null`; such a file must be readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NotYet;

const EXPLANATION: &str =
    "this part of the configuration is not supported yet: leave it out or set it to null";

impl Serialize for NotYet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl NotYet {
    /// Writes an empty list, for the keys that are lists.
    pub(super) fn as_list<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(std::iter::empty::<()>())
    }
}

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nothing;
        impl<'de> de::Visitor<'de> for Nothing {
            type Value = NotYet;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("null, because ")?;
                f.write_str(EXPLANATION)
            }

            fn visit_unit<E: de::Error>(self) -> Result<NotYet, E> {
                Ok(NotYet)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<NotYet, A::Error> {
                match access.next_element::<de::IgnoredAny>()? {
                    None => Ok(NotYet),
                    Some(_) => Err(de::Error::custom(EXPLANATION)),
                }
            }
        }
        deserializer.deserialize_any(Nothing)
    }
}
