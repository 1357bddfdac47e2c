//! The containers that live in microVMs already. A bundle that names a namespace of one of them is put into its microVM:
//! so engines write down pods, and `--network container:ID`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

/// A file's number on its device: two names of one namespace have the same.
type Number = (u64, u64);

/// A container that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its id.
    pub id: String,
    /// The container for which its microVM was made: itself, or another one.
    pub house: String,
    /// The name of the memory at its `/dev/shm`.
    pub memory: String,
    /// The process that stands for it on the host.
    pub pid: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Neighbours(Vec<(Neighbour, Option<Number>)>);

impl FromIterator<Neighbour> for Neighbours {
    fn from_iter<T: IntoIterator<Item = Neighbour>>(all: T) -> Self {
        let network =
            |neighbour: &Neighbour| number(Path::new(&format!("/proc/{}/ns/net", neighbour.pid))).ok();
        let all = all.into_iter().map(|neighbour| {
            let network = network(&neighbour);
            (neighbour, network)
        });
        Self(all.collect())
    }
}

impl Neighbours {
    /// Whose network namespace is at `path`, whatever it is called there: whoever has it first.
    pub(super) fn of_network(&self, path: &Path) -> Option<&Neighbour> {
        let wanted = number(path).ok()?;
        let mut found = self.0.iter().filter(|(_, network)| *network == Some(wanted));
        let first = found
            .clone()
            .find(|(neighbour, _)| neighbour.id == neighbour.house);
        first.or_else(|| found.next()).map(|(neighbour, _)| neighbour)
    }

    /// Whose process a path such as `/proc/PID/ns/ipc` names.
    pub(super) fn of_process(&self, path: &Path) -> Option<&Neighbour> {
        let pid = process(path)?;
        let mut all = self.0.iter().map(|(neighbour, _)| neighbour);
        all.find(|neighbour| neighbour.pid == pid)
    }

    /// The first container of a microVM.
    pub(super) fn first_of(&self, house: &str) -> Option<&Neighbour> {
        let mut all = self.0.iter().map(|(neighbour, _)| neighbour);
        all.find(|neighbour| neighbour.id == house)
    }
}

/// The process that a path below /proc is about.
pub(super) fn process(path: &Path) -> Option<u32> {
    let mut parts = path.components().skip(1);
    match (parts.next()?, parts.next()?) {
        (Component::Normal(proc), Component::Normal(pid)) if proc == "proc" => pid.to_str()?.parse().ok(),
        _ => None,
    }
}

/// The number of the namespace at a path.
pub(super) fn number(path: &Path) -> io::Result<Number> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}
