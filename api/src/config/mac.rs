//! Ethernet addresses.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet address, written as six pairs of hexadecimal digits joined by colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address with these bytes, in the order they are written.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The bytes, in the order they are written.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl From<[u8; 6]> for MacAddress {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl From<MacAddress> for [u8; 6] {
    fn from(mac: MacAddress) -> Self {
        mac.0
    }
}

/// A text that is no Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "The provided MAC address is invalid: it must be six pairs of hexadecimal digits joined by colons, such as \
     06:00:ac:10:00:02"
)]
pub struct MacParseError;

impl FromStr for MacAddress {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, MacParseError> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(MacParseError)?;
            // `from_str_radix` alone would take a sign.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MacParseError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| MacParseError)?;
        }
        if pairs.next().is_some() {
            Err(MacParseError)
        } else {
            Ok(Self(bytes))
        }
    }
}

impl Display for MacAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = MacAddress;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a MAC address")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MacAddress, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        let mac: MacAddress = "06:00:AC:10:00:02".parse().unwrap();
        assert_eq!(mac.bytes(), [6, 0, 0xac, 0x10, 0, 2]);
        assert_eq!(serde_json::to_string(&mac).unwrap(), "\"06:00:ac:10:00:02\"");
        assert_eq!(
            serde_json::from_str::<MacAddress>("\"06:00:ac:10:00:02\"").unwrap(),
            mac
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ":::::",
            "06:00:ac:10:00",
            "06:00:ac:10:00:02:",
            "06:00:ac:10:00:02:03",
            "6:0:ac:10:0:2",
            "06-00-ac-10-00-02",
            "06:00:ac:10:00:0g",
            "+6:00:ac:10:00:02",
            "06:00:ac:10:00:0é",
            "é:00:ac:10:00:02",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(MacParseError), "{text}");
        }
        let err = serde_json::from_str::<MacAddress>("\"x\"").unwrap_err();
        assert!(err.to_string().starts_with("The provided MAC address is invalid"));
    }
}
