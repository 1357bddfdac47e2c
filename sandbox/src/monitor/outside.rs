//! What the containers of a microVM have of the host: networks, and volumes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use koya_proto::v1;

use super::output::{complain, lock};
use crate::container::{IdMap, Mount};
use crate::network::takeover::Card;
use crate::network::{Attached, NetworkError, Networks, VmNetwork};
use crate::parts::{Parts, PartsError};
use crate::sandbox::{DeviceError, Devices, Share};
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
    /// Taps of the cards that the microVM has.
    joined: Mutex<BTreeSet<String>>,
    volumes: Option<Volumes>,
    /// What the volumes are of, in the order of the mounts that they make.
    sources: Vec<Volume>,
    /// What the first container has, until it is started: its id, and how that went.
    early: Mutex<Option<(String, Result<Attached, OutsideError>)>>,
    vm: String,
    /// Everything has been given back.
    dismantled: AtomicBool,
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
        // What monitors left that were killed is in nobody's way from now on.
        if let Err(error) = networks.abandon(|vm| records.runs(vm)) {
            complain(&format!("cannot look for old networks: {error}"));
        }
        let network = match vm.settings.cards {
            0 => None,
            cards => Some(networks.prepare(&vm.id, cards, first.settings.network.count())?),
        };
        // From here on, whatever fails, the network is dismantled.
        let mut outside = Self {
            networks,
            network,
            joined: Mutex::default(),
            volumes: None,
            sources: sources(records, first),
            early: Mutex::default(),
            vm: vm.id.clone(),
            dismantled: AtomicBool::new(false),
        };
        if !outside.sources.is_empty() {
            let program = Parts::find_virtiofsd()?;
            let process = &first.settings.spec.process;
            let ids = (process.system && !process.privileged).then(|| IdMap::of_room(0));
            outside.volumes = Some(Volumes::start(folder, &outside.sources, ids, &program)?);
        }
        Ok(outside)
    }

    /// The network cards that the microVM begins with, and where they are: as many as its first container has networks.
    /// They are those that it gets, because nobody else has any.
    pub fn network_of(&self, first: &Container) -> Option<VmNetwork> {
        let mut network = self.network.clone()?;
        network.cards.truncate(first.settings.network.count());
        let taps = network.cards.iter().map(|card| card.tap.clone());
        *lock(&self.joined) = taps.collect();
        Some(network)
    }

    /// Has the cards of what a container is attached to join the microVM, unless they have.
    pub fn join(&self, attached: &Attached, devices: &Devices) -> Result<(), DeviceError> {
        let mut joined = lock(&self.joined);
        for link in &attached.links {
            if !joined.contains(&link.tap) {
                devices.add_card(&Card {
                    tap: link.tap.clone(),
                    mac: link.mac,
                })?;
                joined.insert(link.tap.clone());
            }
        }
        Ok(())
    }

    /// The volumes, as the microVM is told of them.
    pub fn share(&self) -> Option<Share> {
        self.volumes.as_ref().map(Volumes::share)
    }

    /// Attaches a container to its networks before its microVM has booted, which takes about as long.
    pub fn attach_early(&self, container: &Container) {
        let attached = self.attach(container);
        *lock(&self.early) = Some((container.id.clone(), attached));
    }

    /// Attaches a container to its networks, unless that has been done.
    pub fn attach(&self, container: &Container) -> Result<Attached, OutsideError> {
        if let Some((_, attached)) = lock(&self.early).take_if(|(id, _)| *id == container.id) {
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

    /// Clears up what monitors left that were killed.
    pub fn sweep(&self, records: &Records) {
        if let Err(error) = self.networks.sweep(|vm| records.runs(vm)) {
            complain(&format!("cannot clear up old networks: {error}"));
        }
    }

    /// Has what a container had of networks be anybody's who needs it. To be followed by [`Outside::detach`].
    pub fn leave(&self, container: &str) {
        if let Err(error) = self.networks.leave(container) {
            complain(&format!("cannot give up the networks of {container}: {error}"));
        }
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

    /// Gives everything back, once.
    pub fn dismantle(&self) {
        if self.dismantled.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some((_, Ok(attached))) = lock(&self.early).take() {
            self.detach(&attached.id);
        }
        if self.network.is_some()
            && let Err(error) = self.networks.dismantle(&self.vm)
        {
            complain(&format!("cannot remove the network of the microVM: {error}"));
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.dismantle();
    }
}

fn is_same(one: &Volume, other: &Volume) -> bool {
    (&one.source, one.read_only) == (&other.source, other.read_only)
}

/// Whether there is a folder or file, which is all that can be a volume.
fn can_be_served(source: &Path) -> bool {
    source
        .metadata()
        .is_ok_and(|metadata| metadata.is_dir() || metadata.is_file())
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
    let others = others.filter(|volume| volume.named || can_be_served(&volume.source));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::container::ContainerSpec;
    use crate::network::NetworkRequest;
    use crate::state::{LogSettings, NewContainer, Place, RestartPolicy, Settings, VmSettings};

    /// A folder that goes with the test.
    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> (Self, Records) {
            let path = std::env::temp_dir().join(format!("koya-outside-{}-{name}", std::process::id()));
            let records = Records::at(&path).unwrap();
            (Self(path), records)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Without network, with these folders.
    fn container(records: &Records, vm: Option<&Container>, sources: &[&Path]) -> Container {
        let volumes = sources.iter().map(|source| Volume {
            source: (*source).to_owned(),
            target: "/data".to_owned(),
            read_only: false,
            named: false,
            follows: false,
            top_only: false,
        });
        let settings = Settings {
            image: String::new(),
            image_id: String::new(),
            spec: ContainerSpec::default(),
            user: String::new(),
            init: false,
            network: NetworkRequest {
                networks: vec!["none".to_owned()],
                ..NetworkRequest::default()
            },
            volumes: volumes.collect(),
            stop_signal: 15,
            stop_timeout: 10,
            open_stdin: false,
            stdin_once: false,
            auto_remove: false,
            restart: RestartPolicy::No,
            health: None,
            labels: BTreeMap::new(),
            log: LogSettings::default(),
        };
        let place = match vm {
            Some(container) => Place::Vm(container.vm.clone()),
            None => Place::New(VmSettings {
                vcpus: 1,
                memory_mib: 128,
                storage: 1 << 30,
                rooms: 2,
                cards: 0,
            }),
        };
        let new = NewContainer {
            name: None,
            place,
            settings,
        };
        records.create(new).unwrap()
    }

    #[test]
    fn what_was_attached_early_is_given_to_nobody_else() {
        let (_home, records) = Home::new("early");
        let first = container(&records, None, &[]);
        let other = container(&records, Some(&first), &[]);
        let vm = records.vm(&first.vm).unwrap();
        let folder = records.vm_folder(&vm.id);
        let outside = Outside::prepare(&records, &folder, &vm, &first).unwrap();
        outside.attach_early(&first);
        assert_eq!(outside.attach(&other).unwrap().id, other.id);
        assert_eq!(outside.attach(&first).unwrap().id, first.id);
    }

    #[test]
    fn what_was_attached_for_a_microvm_that_does_not_come_up_is_given_back() {
        let (home, records) = Home::new("given-up");
        let first = container(&records, None, &[]);
        let vm = records.vm(&first.vm).unwrap();
        let folder = records.vm_folder(&vm.id);
        let outside = Outside::prepare(&records, &folder, &vm, &first).unwrap();
        outside.attach_early(&first);
        let networks = Networks::at(&home.0).unwrap();
        assert!(networks.attached(&first.id).unwrap().is_some());
        // As wherever the boot may fail.
        drop(outside);
        assert_eq!(networks.all_attached().unwrap(), []);
    }

    #[test]
    fn only_folders_and_files_of_others_are_served() {
        let (home, records) = Home::new("sources");
        let (folder, file, fifo) = (home.0.join("folder"), home.0.join("file"), home.0.join("fifo"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let missing = home.0.join("missing");
        let first = container(&records, None, &[&folder]);
        let all = [file.as_path(), &fifo, &missing, Path::new("/dev/null")];
        container(&records, Some(&first), &all);
        let served = sources(&records, &first).into_iter().map(|volume| volume.source);
        assert_eq!(served.collect::<Vec<_>>(), [folder, file]);
    }
}
