//! What a check found.

use serde_json::{Value, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Ok,
    /// Something that not every container needs is missing, or unknown.
    Warning,
    /// No container can run.
    Failed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }

    /// What stands before a line.
    pub fn mark(self, colours: bool) -> String {
        let (mark, colour) = match self {
            Self::Ok => ('✓', 32),
            Self::Warning => ('!', 33),
            Self::Failed => ('✗', 31),
        };
        if colours {
            format!("\x1b[{colour}m{mark}\x1b[0m")
        } else {
            mark.to_string()
        }
    }
}

/// What a check found; and how to fix it, unless all is well.
#[derive(Debug)]
pub struct Finding {
    pub check: &'static str,
    pub status: Status,
    pub found: String,
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            found: found.into(),
            fix: None,
        }
    }

    pub fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status: Status::Warning,
            fix: Some(fix.into()),
            ..Self::ok(check, found)
        }
    }

    pub fn failed(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status: Status::Failed,
            ..Self::warning(check, found, fix)
        }
    }

    /// As lists have it; without a fix, that is empty.
    pub fn to_json(&self) -> Value {
        json!({
            "Check": self.check,
            "Status": self.status.name(),
            "Found": self.found,
            "Fix": self.fix.as_deref().unwrap_or_default(),
        })
    }
}
