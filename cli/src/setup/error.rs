//! Why an engine cannot be shown the way.

use std::io;
use std::path::PathBuf;

/// Why an engine cannot be shown the way.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file of the host.
    #[error("{act} {path:?} failed{}", hint(source))]
    File {
        /// What was done with it.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is none, or leads elsewhere.
    #[error("{path:?} {is}: nothing was changed")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        is: &'static str,
    },
    /// A file that the engine could not read either.
    #[error("{path:?}, {place}: {reason}; nothing was changed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, or the setting.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// Somebody else was quicker.
    #[error("{0:?} was changed by somebody else meanwhile: nothing was changed; run the command again")]
    Overtaken(PathBuf),
    /// Nobody can be asked.
    #[error(
        "nothing was changed: there is no terminal to ask on; add --yes to agree, or --dry-run to look only"
    )]
    NobodyToAsk,
    /// A runtime that engines would not find.
    #[error("--runtime {path:?} {is}")]
    Runtime {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        is: &'static str,
    },
}

/// What would help.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => ", which takes root",
        _ => "",
    }
}

/// What is wrong with the text of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The line, or the setting.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

impl SyntaxError {
    /// A place, and what is wrong there.
    pub fn at(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            reason: reason.into(),
        }
    }

    /// The same, of a file.
    pub fn of(self, path: &std::path::Path) -> SetupError {
        SetupError::Malformed {
            path: path.to_owned(),
            place: self.place,
            reason: self.reason,
        }
    }
}
