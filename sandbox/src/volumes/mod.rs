//! Folders and files of the host in containers: `-v` and `--mount`.
//!
//! ```text
//!  host                     mount namespace of virtiofsd           guest                            container
//!  /home/me/src ──bind───►  SHARED/0      (rw)  ┐                  /run/koya/shares/volumes/0  ──►  /src
//!  /etc/app.conf ─bind───►  SHARED/1      (ro)  ┴── virtio-fs ──►  /run/koya/shares/volumes/1  ──►  /etc/app.conf
//! ```
//!
//! One virtiofsd serves all volumes of a microVM. Before it runs, its process gets a mount namespace of its own in which
//! they are put side by side, so that each may be a single file, and each is read-only or not where the guest has no say.
//! The namespace goes with the process, and leaves nothing to be unmounted, however that ends. Then virtiofsd locks
//! itself in what was put together (its own sandbox: pivot_root, and empty PID and network namespaces).
//!
//! Without being root, all of that happens in a user namespace in which the caller is the only user: whatever the guest
//! creates is then his, and ownership cannot be changed. As root, users and groups are the same numbers on both sides. For
//! a container whose ids are shifted (a user namespace in the guest), virtiofsd shifts the owners of files along: the
//! guest's kernel can shift those of a FUSE mount only if their server asks for it (6.12), which virtiofsd does not. So the
//! volumes of a microVM belong to the ids of one container, the one that it was started for.
//!
//! What the guest may do to a volume that is not read-only is what root may do to those files, except for making device
//! nodes. Extended attributes are not carried.

mod later;
mod namespace;
mod parse;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use later::LaterVolumes;
pub use parse::VolumeSyntaxError;
pub use server::{TAG, VolumeMount, Volumes};

/// Most volumes of a microVM: more than anybody has, and few enough for their folders to fit in one page each.
pub const MAX_VOLUMES: usize = 256;

/// A folder or file of the host, and where a container finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// On the host; absolute.
    pub source: PathBuf,
    /// In the container; absolute.
    pub target: String,
    /// Enforced on the host.
    pub read_only: bool,
    /// A named volume, whose folder is made at its first use. It begins empty: what the image has at `target` is not
    /// copied into it.
    #[serde(default)]
    pub named: bool,
    /// Whether what the host mounts below it later is seen as well. It could be written, so not where that is refused.
    #[serde(default)]
    pub follows: bool,
    /// Whether what is mounted below it is left out.
    #[serde(default)]
    pub top_only: bool,
}

/// Volumes cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The source is not there.
    #[error("volume for {target:?}: {source_path:?}: no such file or folder")]
    Missing {
        /// The source.
        source_path: PathBuf,
        /// Where it was to appear.
        target: String,
    },
    /// The source cannot be looked at.
    #[error("volume for {target:?}: cannot use {source_path:?}")]
    Source {
        /// The source.
        source_path: PathBuf,
        /// Where it was to appear.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// Two volumes at one place.
    #[error("two volumes are for {0:?}: each needs a place of its own")]
    Duplicate(String),
    /// Too many.
    #[error("{0} volumes: a microVM has at most {MAX_VOLUMES}")]
    TooMany(usize),
    /// The sandbox's folder cannot be written.
    #[error("cannot write {path:?}")]
    Folder {
        /// What in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process cannot be shut in.
    #[error("cannot give virtiofsd {what}{hint}")]
    Namespace {
        /// What of its own.
        what: &'static str,
        /// What may help.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// virtiofsd cannot be started.
    #[error("cannot run {program:?}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Those of a container that came later.
    #[error("cannot change what virtiofsd serves for container '{name}'")]
    Later {
        /// The container.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// virtiofsd ended by itself.
    #[error("virtiofsd ended: {0}")]
    Ended(String),
}
