//! What the containers of a microVM have of the host: networks, and volumes.

use std::path::Path;
use std::sync::Mutex;

use koya_proto::v1;

use super::output::{complain, lock};
use crate::container::{IdMap, Mount};
use crate::network::{Attached, NetworkError, Networks, VmNetwork};
use crate::parts::{Parts, PartsError};
use crate::sandbox::Share;
use crate::state::{Container, Records, Vm};
use crate::volumes::{TAG, Volume, VolumeError, Volumes};

/// Something of the host cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutsideError {
    /// A network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The program that serves volumes.
    #[error(transparent)]
    Program(#[from] PartsError),
    /// A microVM without network devices.
    #[error("the microVM was made without network: containers in it have --network none")]
    NoCards,
    /// A volume that the microVM does not know.
    #[error(
        "volume {0:?} is not among those with which the microVM was started; start it again to add one (volumes of \
         all its containers are then known)"
    )]
    NewVolume(String),
}

/// Networks and volumes of a microVM.
pub(super) struct Outside {
    networks: Networks,
    network: Option<VmNetwork>,
    volumes: Option<Volumes>,
    /// What the volumes are of, in the order of the mounts that they make.
    sources: Vec<Volume>,
    /// What the first container has, until it is started.
    early: Mutex<Option<Result<Attached, OutsideError>>>,
}

impl Outside {
    /// Prepares the networks and volumes of a microVM whose first container is `first`. To be called by a thread that
    /// lives as long as the microVM shall: the volumes go with it.
    pub fn prepare(
        records: &Records,
        folder: &Path,
        vm: &Vm,
        first: &Container,
    ) -> Result<Self, OutsideError> {
        let networks = Networks::at(records.home())?;
        // What monitors left that were killed.
        if let Err(error) = networks.sweep(|vm| records.runs(vm)) {
            complain(&format!("cannot clear up old networks: {error}"));
        }
        let network = match vm.settings.cards {
            0 => None,
            cards => Some(networks.prepare(&vm.id, cards)?),
        };
        let sources = sources(records, first);
        let mut outside = Self {
            networks,
            network,
            volumes: None,
            sources,
            early: Mutex::default(),
        };
        if !outside.sources.is_empty() {
            let program = Parts::find_virtiofsd()?;
            let process = &first.settings.spec.process;
            let ids = (process.system && !process.privileged).then(|| IdMap::of_room(0));
            outside.volumes = Some(Volumes::start(folder, &outside.sources, ids, &program)?);
        }
        Ok(outside)
    }

    /// The network devices, and where they are.
    pub fn network(&self) -> Option<&VmNetwork> {
        self.network.as_ref()
    }

    /// The volumes, as the microVM is told of them.
    pub fn share(&self) -> Option<Share> {
        self.volumes.as_ref().map(Volumes::share)
    }

    /// Attaches a container to its networks before its microVM has booted, which takes about as long.
    pub fn attach_early(&self, container: &Container) {
        let attached = self.attach(container);
        *lock(&self.early) = Some(attached);
    }

    /// Attaches a container to its networks, unless that has been done.
    pub fn attach(&self, container: &Container) -> Result<Attached, OutsideError> {
        if let Some(attached) = lock(&self.early).take() {
            return attached;
        }
        let mut request = container.settings.network.clone();
        let wants_one = request.networks != ["none"];
        if wants_one && self.network.is_none() {
            return Err(OutsideError::NoCards);
        }
        request.name.clone_from(&container.name);
        request.hostname = container.hostname().to_owned();
        Ok(self.networks.attach(&container.id, &container.vm, &request)?)
    }

    /// Detaches a container from its networks.
    pub fn detach(&self, container: &str) {
        if let Err(error) = self.networks.detach(container) {
            complain(&format!("cannot detach {container} from its networks: {error}"));
        }
    }

    /// The mounts of a container's volumes, and the shares that they are on.
    pub fn mounts(&self, container: &Container) -> Result<(Vec<Mount>, Vec<v1::Share>), OutsideError> {
        let mut mounts = Vec::new();
        for volume in &container.settings.volumes {
            let known = self.sources.iter().position(|known| is_same(known, volume));
            let served = self.volumes.as_ref().map(Volumes::mounts).unwrap_or_default();
            let served = known.and_then(|index| served.get(index));
            let served =
                served.ok_or_else(|| OutsideError::NewVolume(volume.source.display().to_string()))?;
            let mut mount = served.to_mount();
            mount.destination.clone_from(&volume.target);
            mounts.push(mount);
        }
        let share = v1::Share {
            tag: TAG.to_owned(),
            ..Default::default()
        };
        let shares = if mounts.is_empty() {
            Vec::new()
        } else {
            vec![share]
        };
        Ok((mounts, shares))
    }

    /// Why the microVM may not have come up.
    pub fn complaint(&mut self) -> Option<String> {
        let volumes = self.volumes.as_mut()?;
        volumes.check().err().map(|error| error.to_string())
    }

    /// Gives everything back.
    pub fn dismantle(&self, vm: &str) {
        if let Some(Ok(attached)) = lock(&self.early).take() {
            self.detach(&attached.id);
        }
        if self.network.is_some()
            && let Err(error) = self.networks.dismantle(vm)
        {
            complain(&format!("cannot remove the network of the microVM: {error}"));
        }
    }
}

fn is_same(one: &Volume, other: &Volume) -> bool {
    (&one.source, one.read_only) == (&other.source, other.read_only)
}

/// The volumes of all containers of a microVM, each once: those of others may be started while it runs. One whose source
/// is not there is in the way of nobody but its own container.
fn sources(records: &Records, first: &Container) -> Vec<Volume> {
    let mut sources: Vec<Volume> = Vec::new();
    let all = records.list().unwrap_or_default();
    let others = all
        .iter()
        .filter(|other| other.vm == first.vm && other.id != first.id);
    let others = others.flat_map(|other| &other.settings.volumes);
    let others = others.filter(|volume| volume.named || volume.source.exists());
    for volume in first.settings.volumes.iter().chain(others) {
        if !sources.iter().any(|known| is_same(known, volume)) {
            // The targets are the containers' own; here each only has to be different.
            let target = format!("/{}", sources.len());
            sources.push(Volume {
                target,
                ..volume.clone()
            });
        }
    }
    sources
}
