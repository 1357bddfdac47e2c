//! What an engine's file is to say, how it comes in, and how it goes out again.
//!
//! ```text
//!  before ──(settings)──► after            both are kept in the record
//!                           │ the administrator edits it
//!  without ◄──(settings)── now             only what still is as it was set goes; what was there before comes back
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{SetupError, SyntaxError};
use super::{file, json, toml};

/// Bytes of a record: it has two texts, and a letter of them takes six bytes at most.
const LARGEST: u64 = 16 * file::LARGEST;

/// What a file is written in.
#[derive(Debug, Clone, Copy)]
pub enum Syntax {
    /// JSON
    Json,
    /// TOML
    Toml,
}

/// One thing that the file is to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name, and those of what it is in, outermost first.
    pub keys: Vec<String>,
    /// What it is to be.
    pub value: Value,
    /// Whether it stays in a file that somebody else writes into: the rest may depend on it.
    #[serde(default)]
    pub stays: bool,
}

impl Setting {
    /// A setting that goes again.
    pub fn new<const DEPTH: usize>(keys: [&str; DEPTH], value: impl Into<Value>) -> Self {
        Self {
            keys: keys.map(str::to_owned).to_vec(),
            value: value.into(),
            stays: false,
        }
    }

    /// Its name as people write it.
    fn name(&self) -> String {
        self.keys.join(".")
    }
}

/// What was done to a file, so that it can be taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The text without any of it; `None` if there was no file.
    pub before: Option<String>,
    /// The text with it.
    pub after: String,
    /// What was set.
    pub settings: Vec<Setting>,
    /// Folders that were made for it, the innermost first.
    pub folders: Vec<PathBuf>,
}

/// How a file is to be taken back.
#[derive(Debug, PartialEq)]
pub struct Undone {
    /// The text then; `None` if the file goes.
    pub text: Option<String>,
    /// What was changed since by somebody else, and is left as it is.
    pub left: Vec<String>,
}

impl Syntax {
    fn get(self, text: &str, keys: &[String]) -> Result<Option<Value>, SyntaxError> {
        match self {
            Self::Json => json::get(text, keys),
            Self::Toml => toml::get(text, keys),
        }
    }

    fn set(self, text: &str, keys: &[String], value: &Value) -> Result<String, SyntaxError> {
        match self {
            Self::Json => json::set(text, keys, value),
            Self::Toml => toml::set(text, keys, value),
        }
    }

    fn remove(self, text: &str, keys: &[String]) -> Result<String, SyntaxError> {
        match self {
            Self::Json => json::remove(text, keys),
            Self::Toml => toml::remove(text, keys),
        }
    }

    /// The text with all settings; the same text if it says all of it already.
    ///
    /// # Errors
    /// [`SyntaxError`]
    pub fn with(self, text: &str, settings: &[Setting]) -> Result<String, SyntaxError> {
        let mut text = text.to_owned();
        for setting in settings {
            if self.get(&text, &setting.keys)?.as_ref() != Some(&setting.value) {
                text = self.set(&text, &setting.keys, &setting.value)?;
            }
        }
        Ok(text)
    }

    /// The text without what was done to it.
    ///
    /// # Errors
    /// [`SyntaxError`]
    pub fn without(self, now: &str, record: &Record) -> Result<Undone, SyntaxError> {
        let mut left = Vec::new();
        if now == record.after {
            let text = record.before.clone();
            return Ok(Undone { text, left });
        }
        let before = record.before.as_deref().unwrap_or_default();
        let mut text = now.to_owned();
        for setting in record.settings.iter().filter(|setting| !setting.stays) {
            let (old, new) = (self.get(before, &setting.keys)?, self.get(&text, &setting.keys)?);
            if new.as_ref() == Some(&setting.value) {
                let taken = self.take(&text, before, setting, old.as_ref())?;
                // Somebody's comment would go with it.
                match comments(&taken) == comments(&text) {
                    true => text = taken,
                    false => left.push(format!("{}, which has a comment", setting.name())),
                }
            } else if new.is_some() && new != old {
                left.push(setting.name());
            }
        }
        let gone = record.before.is_none() && self.is_bare(&text, &record.settings)?;
        let text = (!gone).then_some(text);
        Ok(Undone { text, left })
    }

    /// Puts back what a setting was before; if it was not there, it goes with whatever was made around it and is empty else.
    fn take(
        self,
        text: &str,
        before: &str,
        setting: &Setting,
        old: Option<&Value>,
    ) -> Result<String, SyntaxError> {
        if let Some(old) = old {
            return self.set(text, &setting.keys, old);
        }
        for depth in 1..setting.keys.len() {
            let (above, below) = setting.keys.split_at(depth);
            let alone = below.iter().rev().fold(setting.value.clone(), |value, key| {
                Value::Object(Map::from_iter([(key.clone(), value)]))
            });
            if self.get(before, above)?.is_none() && self.get(text, above)? == Some(alone) {
                return self.remove(text, above);
            }
        }
        self.remove(text, &setting.keys)
    }

    /// Whether nothing is in a text but what stays.
    fn is_bare(self, text: &str, settings: &[Setting]) -> Result<bool, SyntaxError> {
        let stays = |key: &String| {
            let mut settings = settings.iter().filter(|setting| setting.stays);
            settings.any(|setting| setting.keys.first() == Some(key))
        };
        let whole = self.get(text, &[])?.unwrap_or_default();
        let members = whole.as_object().is_none_or(|members| members.keys().all(stays));
        Ok(members && comments(text) == 0)
    }
}

/// How many marks of comments a text has; more than there are comments, if some are quoted.
fn comments(text: &str) -> usize {
    text.matches('#').count()
}

/// The records of a host whose `/` is `root`.
pub struct Records(PathBuf);

impl Records {
    /// That of an engine.
    pub fn of(root: &Path, engine: &str) -> Self {
        let path = Path::new("/var/lib/koya/setup").join(format!("{engine}.json"));
        Self(file::below(root, &path))
    }

    /// What was done; `None` if nothing was.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn read(&self) -> Result<Option<Record>, SetupError> {
        let Some(text) = file::read_up_to(LARGEST, &self.0)? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            SyntaxError::at(place, "this is no record of what setup did").of(&self.0)
        })
    }

    /// Keeps what was done. It has all of the file, which may hold secrets.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn keep(&self, record: &Record) -> Result<(), SetupError> {
        let text = serde_json::to_string_pretty(record).map_err(|error| SetupError::File {
            act: "writing",
            path: self.0.clone(),
            source: error.into(),
        })?;
        file::make_folder(&self.0, Some(0o700))?;
        file::write(&self.0, &text, Some(0o600))
    }

    /// Forgets it.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn forget(&self) -> Result<(), SetupError> {
        file::remove(&self.0)
    }
}
