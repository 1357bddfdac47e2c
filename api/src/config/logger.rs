//! The VMM's own log.

use std::fmt::{self, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{PathError, check_path};

/// Where the log goes and what is in it. Fields left out keep their setting, except `level`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// A file or named pipe on the host; without it, standard error.
    pub log_path: Option<PathBuf>,
    /// The least severe level that is logged; without it, [`LogLevel::Info`].
    pub level: Option<LogLevel>,
    /// Whether a line shows its level; at first, it does not.
    pub show_level: Option<bool>,
    /// Whether a line shows the file and line it comes from; at first, it does not.
    pub show_log_origin: Option<bool>,
    /// Log only what comes from modules whose path starts with this.
    pub module: Option<String>,
}

impl Logger {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn validate(&self) -> Result<(), PathError> {
        self.log_path
            .as_deref()
            .map_or(Ok(()), |path| check_path("log_path", path))
    }
}

/// How much is logged, from nothing to everything. Read in any case, and `Warning` is taken for `Warn`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Failures.
    Error,
    /// What may become a failure.
    Warn,
    /// What a user wants to follow.
    #[default]
    Info,
    /// What a developer wants to follow.
    Debug,
    /// Everything.
    Trace,
}

/// A text that is no log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log level must be one of Off, Error, Warning, Info, Debug, Trace")]
pub struct LogLevelError;

impl FromStr for LogLevel {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, LogLevelError> {
        const NAMES: [(&str, LogLevel); 7] = [
            ("off", LogLevel::Off),
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("warning", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        let found = NAMES.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
        found.map(|&(_, level)| level).ok_or(LogLevelError)
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = LogLevel;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a log level")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LogLevel, E> {
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
    fn levels_are_read_in_any_case() {
        for (text, level) in [
            ("Warning", LogLevel::Warn),
            ("WARN", LogLevel::Warn),
            ("off", LogLevel::Off),
            ("tRaCe", LogLevel::Trace),
        ] {
            let logger: Logger = serde_json::from_str(&format!(r#"{{"level":"{text}"}}"#)).unwrap();
            assert_eq!(logger.level, Some(level));
        }
        let err = serde_json::from_str::<Logger>(r#"{"level":"loud"}"#).unwrap_err();
        assert!(err.to_string().contains("one of Off, Error, Warning"));
    }

    #[test]
    fn levels_order_by_how_much_they_log() {
        assert!(
            LogLevel::Off < LogLevel::Error
                && LogLevel::Error < LogLevel::Info
                && LogLevel::Debug < LogLevel::Trace
        );
    }
}
