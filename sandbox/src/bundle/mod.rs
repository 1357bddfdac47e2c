//! An OCI bundle of the host, turned into what a microVM and the agent in it get.
//!
//! ```text
//!  config.json ─┬─ root, bind mounts ──► volumes of the host (virtiofsd) ──► bind mounts of guest paths
//!               ├─ namespaces ─────────► the network to take over; those of a container that lives in a microVM already:
//!               │                        that microVM; everything else is the guest's own
//!               ├─ resources ──────────► size of the microVM, and limits in the guest
//!               ├─ hooks ──────────────► run on the host
//!               └─ process, the rest ──► as it is
//! ```
//!
//! What names something of the host that a guest cannot have is refused with the reason, never passed on and never left
//! out silently where somebody would miss it. A path of the host is served as files; what it holds is never taken for a
//! disk: only a block device that is named as one becomes a disk of the microVM.

mod config;
mod devices;
mod disks;
mod hooks;
mod left_out;
mod mounts;
mod namespaces;
mod neighbours;
mod overlays;
mod places;
mod process;
mod resources;
mod size;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use disks::Disks;
use koya_proto::SHARES;
use serde_json::Value;

pub use hooks::{Hook, Hooks};
pub use namespaces::Network;
pub use neighbours::{Neighbour, Neighbours};
pub use process::{Checked, exec_process};
pub use resources::for_update;
pub use size::Size;

use crate::kind::Kind;
use crate::sandbox::{Disk, Lent};
use crate::settings::Settings;
use crate::volumes::{LaterVolumes, TAG, Volume};

/// Largest `config.json` that is read: what the agent takes, and room for what stays on the host.
const MAX_CONFIG: u64 = 4 << 20;

/// A bundle cannot be run in a microVM.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// `config.json` cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than anybody writes.
    #[error("{path:?} has {bytes} bytes; at most {MAX_CONFIG} are read")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// How large it is.
        bytes: u64,
    },
    /// It is no JSON.
    #[error("{path:?} is not JSON")]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It was written for a specification that is not known.
    #[error("config.json: ociVersion is {0:?}; versions 1.0 to 1.2 are understood")]
    Version(String),
    /// Something that has to be there is not, or has another type.
    #[error("config.json: {field} is {found}; want {wanted}")]
    Field {
        /// Its name, from the top.
        field: String,
        /// What is there.
        found: &'static str,
        /// What would be right.
        wanted: &'static str,
    },
    /// The root file system is not there.
    #[error("config.json: root.path {path:?} cannot be used")]
    Root {
        /// Where it was to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a mount wants to show of the host is not there.
    #[error("config.json: the mount at {destination:?} wants {path:?}, which cannot be used")]
    MountSource {
        /// Where in the container.
        destination: String,
        /// Which path of the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An overlay cannot be mounted.
    #[error("config.json: cannot mount the overlay for {destination:?} on the host")]
    Overlay {
        /// Where in the container.
        destination: String,
        /// Why.
        source: io::Error,
    },
    /// A place for a mount cannot be made.
    #[error("cannot make {path:?} in the root file system, where something is to be mounted")]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of the host that a guest cannot have.
    #[error("config.json: {what}: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had, and what can.
        reason: &'static str,
    },
    /// Namespaces that would not be separate from the host.
    #[error("config.json: linux.namespaces has no {kind}: {reason}")]
    HostNamespace {
        /// Which kind.
        kind: &'static str,
        /// Why it is refused.
        reason: &'static str,
    },
}

impl BundleError {
    /// What kind of error it is: mostly the bundle's own.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } | Self::Root { source, .. } | Self::MountSource { source, .. }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Kind::NotFound
            }
            Self::Read { .. } | Self::Overlay { .. } | Self::Place { .. } => Kind::Other,
            Self::TooLarge { .. }
            | Self::Json { .. }
            | Self::Version(_)
            | Self::Field { .. }
            | Self::Root { .. }
            | Self::MountSource { .. }
            | Self::Unsupported { .. }
            | Self::HostNamespace { .. } => Kind::Invalid,
        }
    }
}

/// What a bundle becomes.
#[derive(Debug)]
pub struct Plan {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The root file system, on the host.
    pub root: PathBuf,
    /// `config.json` for the agent.
    pub config: Value,
    /// What is served to the guest. The first is the root file system.
    pub volumes: Vec<Volume>,
    /// The guest's folder that they are in, by their numbers.
    served: String,
    /// Block devices of the host that the container is given. In a microVM that it joins they have other serials.
    pub disks: Vec<Disk>,
    /// Held as long as the container's own microVM lives.
    _claims: Vec<disks::Claim>,
    /// On what something is mounted.
    places: Vec<places::Place>,
    /// Volumes that are to be mounted first.
    overlays: Vec<overlays::Overlay>,
    /// Where the container's network comes from.
    pub network: Network,
    /// The file of the host at the container's `/etc/resolv.conf`, if an engine put one there.
    pub resolv_conf: Option<PathBuf>,
    /// Whether the network may be made only after the container, as engines do where a user namespace is to own it.
    pub late: bool,
    /// The container in whose microVM this one is to be, if it is not to have one of its own.
    pub house: Option<String>,
    /// By what name its files are served there.
    pub served_as: Option<String>,
    /// The name of the memory at `/dev/shm`: its own id, or that of the container whose IPC namespace it shares.
    pub memory: String,
    /// How large the microVM is.
    pub size: Size,
    /// Programs of the host that want to be told.
    pub hooks: Hooks,
    /// Whether the first process has a terminal.
    pub terminal: bool,
    /// Rows and columns that it is to have at first, if the bundle says so.
    pub terminal_size: Option<(u16, u16)>,
    /// Of the bundle, as state answers have them.
    pub annotations: BTreeMap<String, String>,
    /// The version that `config.json` names.
    pub version: String,
    /// What is asked for in vain: a guest has nothing of the kind, and the container runs without.
    pub left_out: Vec<String>,
    /// The cgroup of the host that was prepared for the container.
    pub cgroup: Option<String>,
}

impl Plan {
    /// Reads the bundle in `folder` for the container `id`, and checks what can be known without a guest. The operator of the
    /// host has decided what `settings` say.
    ///
    /// # Errors
    /// [`BundleError`]
    pub fn read(
        folder: &Path,
        id: &str,
        neighbours: &Neighbours,
        settings: &Settings,
    ) -> Result<Self, BundleError> {
        let config = config::read(&folder.join("config.json"))?;
        config::is_allowed(&config, settings)?;
        Self::of(folder, id, neighbours, settings, config)
    }

    /// Where the guest finds the volume with this number.
    pub fn served_at(&self, number: usize) -> String {
        format!("{}/{number}", self.served)
    }

    /// Makes the places in the root file system on which something is mounted, as far as they are not there. The guest is
    /// told where links lead, as it does not follow them where it makes places itself: on what is mounted before.
    ///
    /// # Errors
    /// [`BundleError::Place`]
    pub fn make_places(&mut self) -> Result<(), BundleError> {
        let found = places::make(&self.root, &self.places)
            .map_err(|(path, source)| BundleError::Place { path, source })?;
        let mounts = self.config.get_mut("mounts").and_then(Value::as_array_mut);
        for (mount, place) in mounts.into_iter().flatten().zip(found) {
            // A link in the place of a file system of the kernel's is refused there.
            if mount.get("type").and_then(Value::as_str) == Some("bind")
                && let (Some(mount), Some(place)) = (mount.as_object_mut(), place.to_str())
            {
                mount.insert("destination".to_owned(), place.into());
            }
        }
        Ok(())
    }

    /// `config.json` for the agent of a microVM that lends these disks to the container, in the order in which it wants them.
    pub fn config_with(&self, lent: &[Lent]) -> Value {
        let mut config = self.config.clone();
        let wanted = self.disks.iter().map(|disk| disk.serial.clone());
        if let Some(config) = config.as_object_mut() {
            disks::change(config, &wanted.zip(lent.iter().cloned()).collect());
        }
        config
    }

    fn of(
        folder: &Path,
        id: &str,
        neighbours: &Neighbours,
        settings: &Settings,
        mut config: config::Config,
    ) -> Result<Self, BundleError> {
        let version = config::version(&config)?;
        disks::strip(&mut config);
        let mut left_out = left_out::of(&config, settings.follow_host_mounts);
        left_out::refuse_caches(&config)?;
        let process = process::check(&mut config)?;
        left_out.extend(process.left_out);
        let (root, read_only) = mounts::root(folder, &config)?;
        let namespaces::Found {
            network,
            late,
            house,
            memory,
        } = namespaces::translate(&mut config, neighbours)?;
        let size = Size::of(&config, settings)?;
        resources::translate(&mut config)?;
        let mut disks = Disks::default();
        devices::translate(&mut config, &mut disks)?;
        let memory = memory.unwrap_or_else(|| id.to_owned());
        let served_as = house.is_some().then(|| LaterVolumes::name(id));
        let served = match &served_as {
            None => format!("{SHARES}/{TAG}"),
            Some(name) => LaterVolumes::folder(name),
        };
        let into = mounts::Into {
            served: &served,
            memory: &memory,
        };
        let resolv_conf = mounts::resolv_conf(folder, &config);
        let mut served_mounts = mounts::translate(folder, &root, read_only, into, &mut config, disks)?;
        for volume in &mut served_mounts.volumes {
            volume.follows &= settings.follow_host_mounts;
        }
        let (disks, claims) = served_mounts.disks.finish();
        if house.is_some() && !claims.is_empty() {
            return Err(BundleError::Unsupported {
                what: "a mount of what is on a block device".to_owned(),
                reason: "the container joins a microVM that runs, which may outlive whoever keeps others from mounting it; bring \
                         it with the container that the microVM is made for",
            });
        }
        let hooks = hooks::take(&mut config)?;
        let annotations = config::annotations(&mut config)?;
        let cgroup = config::tidy(&mut config);
        Ok(Self {
            bundle: folder.to_owned(),
            root,
            config: Value::Object(config),
            volumes: served_mounts.volumes,
            disks,
            _claims: claims,
            places: served_mounts.places,
            overlays: served_mounts.overlays,
            network,
            resolv_conf,
            late,
            house,
            served_as,
            memory,
            served,
            size,
            hooks,
            terminal: process.terminal,
            terminal_size: process.size,
            annotations,
            version,
            left_out,
            cgroup,
        })
    }
}
