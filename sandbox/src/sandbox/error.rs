//! Why a microVM does not come up.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use koya_proto::client::ClientError;

use crate::network::NamespaceError;
use crate::parts::PartsError;

/// A microVM does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A part is missing.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// Its folder cannot be written.
    #[error("cannot write {path:?}")]
    Folder {
        /// What in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that the VMM's configuration cannot hold.
    #[error("{0:?} is not UTF-8, which the microVM's configuration needs")]
    Path(PathBuf),
    /// The VMM cannot be started.
    #[error("cannot run {program:?}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM ended while the guest booted.
    #[error("the microVM ended while it booted: {0}")]
    Ended(String),
    /// The guest has reset or powered itself off before its agent answered.
    #[error("the guest gave up while it booted; its last words: {last:?}")]
    GaveUp {
        /// The last line on the guest's console.
        last: String,
    },
    /// The guest runs and nobody answers.
    #[error("the agent did not answer within {} s; the guest's last words: {last:?}", patience.as_secs())]
    Silent {
        /// How long it may take, if it can run.
        patience: Duration,
        /// The last line on the guest's console.
        last: String,
    },
    /// Its network namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Nobody waits for it any more.
    #[error("whoever started it has left")]
    Abandoned,
    /// The agent answers and is not the right one.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// There are no random numbers for a fork, which without them would have those of all others.
    #[error("cannot get random numbers for the guest")]
    Entropy(#[source] io::Error),
    /// It was to go on from a template, and boots instead.
    #[error("cannot go on from the template {template:?}")]
    Fork {
        /// Its folder.
        template: PathBuf,
        /// What went wrong.
        source: Box<StartError>,
    },
}

/// How the VMM says that it cannot go on from a snapshot.
const REFUSED: &str = "Load snapshot error";

impl StartError {
    /// Whether another boot may well succeed: nothing of the user's has run, and a kernel that boots on this host now and
    /// then panics on it, as on those that emulate processors; or the next boot is one without the template.
    pub fn is_by_chance(&self) -> bool {
        matches!(self, Self::GaveUp { .. } | Self::Fork { .. })
    }

    /// Whether the template is what has failed a fork. A VMM that ends otherwise lacks something of this container's, or was
    /// killed.
    pub(super) fn is_of_the_template(&self) -> bool {
        match self {
            Self::Ended(words) => words.contains(REFUSED),
            Self::GaveUp { .. } | Self::Silent { .. } | Self::Agent(_) => true,
            _ => false,
        }
    }
}
