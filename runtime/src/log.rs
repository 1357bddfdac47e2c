//! Where errors go besides standard error: `--log`, as text or as JSON, line by line.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use koya_sandbox::Kind;
use serde_json::{Value, json};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    Text,
    /// `{"level": "error", "msg": "…", "time": "…"}`, and what `kind` of error it is
    Json,
}

/// A log that engines read.
#[derive(Debug, Clone)]
pub struct Log {
    path: Option<PathBuf>,
    format: Format,
}

impl Log {
    /// A log at `path`, or none.
    pub fn new(path: Option<PathBuf>, format: Format) -> Self {
        Self { path, format }
    }

    /// Adds an error.
    pub fn error(&self, message: &str) {
        self.write("error", message, None);
    }

    /// Adds the one that a command ends with. Programs decide by its kind; its text is for people.
    pub fn failed(&self, kind: Kind, message: &str) {
        self.write("error", message, Some(kind));
    }

    /// Adds something that is not as asked for, and goes on.
    pub fn warn(&self, message: &str) {
        self.write("warning", message, None);
    }

    /// Names what was asked for in vain.
    pub fn left_out(&self, names: &[String]) {
        for name in names {
            self.warn(&format!(
                "config.json: {name} means nothing in a microVM and is left out"
            ));
        }
    }

    /// Tells whoever wants this many descriptors handed on that it cannot be.
    pub fn no_descriptors(&self, count: u32) {
        if count > 0 {
            self.warn(&format!(
                "--preserve-fds {count}: descriptors of the host mean nothing in a microVM and are closed"
            ));
        }
    }

    fn write(&self, level: &str, message: &str, kind: Option<Kind>) {
        let Some(path) = &self.path else { return };
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let line = match self.format {
            Format::Json => {
                let mut line = json!({ "level": level, "msg": message, "time": time });
                if let (Some(kind), Some(line)) = (kind, line.as_object_mut()) {
                    line.insert(
                        "kind".to_owned(),
                        serde_json::to_value(kind).unwrap_or(Value::Null),
                    );
                }
                line.to_string()
            }
            Format::Text => format!("time={time:?} level={level} msg={message:?}"),
        };
        let file = File::options().create(true).append(true).open(path);
        // Whoever cannot read it has standard error.
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}
