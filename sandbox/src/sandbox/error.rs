//! Why a microVM does not come up.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_proto::client::ClientError;

use crate::kind::Kind;
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

/// What a VMM cannot do without.
const KVM: &str = "/dev/kvm";

impl StartError {
    /// What kind of error it is. A VMM is a program of its own, which says in words why it has ended: whether the host has KVM
    /// for this user is looked up.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Parts(_) | Self::Spawn { .. } => Kind::Host,
            Self::Ended(_) if !is_usable(Path::new(KVM)) => Kind::Host,
            Self::Path(_) => Kind::Invalid,
            Self::Silent { .. } => Kind::Late,
            Self::Namespace(error) => error.kind(),
            Self::Agent(error) => error.kind().map_or(Kind::Gone, Kind::from),
            Self::Fork { source, .. } => source.kind(),
            Self::Folder { .. }
            | Self::Ended(_)
            | Self::GaveUp { .. }
            | Self::Abandoned
            | Self::Entropy(_) => Kind::Other,
        }
    }

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

/// Whether this user can open a device, and it is one.
fn is_usable(device: &Path) -> bool {
    let opened = File::options().read(true).write(true).open(device);
    let about = opened.and_then(|device| device.metadata());
    about.is_ok_and(|about| about.file_type().is_char_device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_usable_or_what_is_there_is_none() {
        assert!(is_usable(Path::new("/dev/null")));
        for path in ["/dev/no-such-device", "/dev/shm"] {
            assert!(!is_usable(Path::new(path)), "{path}");
        }
        let file = std::env::temp_dir().join(format!("koya-no-device-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        assert!(!is_usable(&file));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn kinds_are_those_of_what_is_wrong() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let program = PathBuf::from("/no/such/vmm");
        let source = missing();
        assert_eq!(StartError::Spawn { program, source }.kind(), Kind::Host);
        let path = PathBuf::from("/run/netns/x");
        let source = missing();
        let namespace = StartError::from(NamespaceError::Open { path, source });
        assert_eq!(namespace.kind(), Kind::NotFound);
        let fork = StartError::Fork {
            template: PathBuf::new(),
            source: Box::new(namespace),
        };
        assert_eq!(fork.kind(), Kind::NotFound);
        assert_eq!(StartError::Abandoned.kind(), Kind::Other);
    }
}
