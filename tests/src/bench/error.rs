//! What can go wrong with a sample or with a whole run.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a sample or a run failed.
#[derive(Debug)]
pub enum BenchError {
    /// An operation of the host on a path failed.
    Path {
        /// What was tried, as "write" or "run".
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// A call to the host without a path failed.
    Host {
        /// What was tried.
        act: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// Something did not happen in time.
    Timeout {
        /// What was waited for.
        awaited: String,
        /// For how long.
        limit: Duration,
    },
    /// A program ended before it did what it was started for.
    EarlyExit {
        /// What was waited for.
        awaited: String,
        /// Exit code, or the signal's number negated.
        code: i32,
        /// The last line of its error output; empty when it wrote none.
        last_words: String,
    },
    /// A program said something else than expected.
    Output {
        /// What was expected.
        expected: &'static str,
        /// The beginning of what came.
        found: String,
    },
    /// An agent refused, or did not answer.
    Agent(Box<koya_proto::client::ClientError>),
    /// The command line is wrong.
    Usage(String),
    /// Something the run needs is not installed or not built.
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remedy: &'static str,
    },
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { act, path, .. } => write!(f, "cannot {act} {}", path.display()),
            Self::Host { act, .. } => write!(f, "cannot {act}"),
            Self::Timeout { awaited, limit } => write!(f, "no {awaited} within {} s", limit.as_secs()),
            Self::EarlyExit {
                awaited,
                code,
                last_words,
            } => {
                write!(f, "exit with code {code} before {awaited}")?;
                if last_words.is_empty() {
                    Ok(())
                } else {
                    write!(f, ": {last_words}")
                }
            }
            Self::Output { expected, found } => write!(f, "expected {expected}, found '{found}'"),
            Self::Agent(_) => f.write_str("the agent did not do it"),
            Self::Usage(what) => f.write_str(what),
            Self::Missing { what, remedy } => write!(f, "{what} is missing; {remedy}"),
        }
    }
}

impl std::error::Error for BenchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Path { source, .. } | Self::Host { source, .. } => Some(source),
            Self::Agent(source) => Some(source),
            _ => None,
        }
    }
}

impl BenchError {
    /// A closure for `map_err`, for an operation on a path.
    pub fn path<'a>(
        act: &'static str,
        path: impl Into<PathBuf> + 'a,
    ) -> impl FnOnce(io::Error) -> BenchError + 'a {
        move |source| Self::Path {
            act,
            path: path.into(),
            source,
        }
    }

    /// A closure for `map_err`, for an operation without a path.
    pub fn host(act: &'static str) -> impl FnOnce(io::Error) -> BenchError {
        move |source| Self::Host { act, source }
    }

    /// The error and its causes on one line.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
