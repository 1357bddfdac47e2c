//! Numbers whose range is said when they are out of it, also when they are too large for any integer type.

use std::fmt::{self, Formatter};

use serde::{Deserializer, de};

/// A whole number from 0 to `max`; `what` is said, after "expected", when it is something else.
#[derive(Clone, Copy)]
pub(super) struct Number {
    pub max: u64,
    pub what: &'static str,
}

impl Number {
    /// Reads the number.
    pub fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }

    /// Reads the number, or nothing from `null`.
    pub fn read_optional<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_option(Optional(self))
    }
}

impl de::Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        if value > self.max {
            Err(E::invalid_value(de::Unexpected::Unsigned(value), &self))
        } else {
            Ok(value)
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
        }
    }
}

struct Optional(Number);

impl<'de> de::Visitor<'de> for Optional {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.what)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<u64>, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<u64>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        self.0.read(deserializer).map(Some)
    }
}

/// Fits a number that was read into a smaller type, whose largest value is at least `number.max`.
pub(super) fn narrow<T: TryFrom<u64>, E: de::Error>(value: u64, number: &Number) -> Result<T, E> {
    T::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), number))
}
