//! The containers of this guest.
//!
//! ```text
//!  Containers ─► Container ─► Process (the first, and those that Exec started)
//!                   │            └─ Child + Streams
//!                   ├─ Bundle (config.json, mounted root file system)
//!                   └─ Cgroup
//! ```
//!
//! State is kept here, in memory: the agent lives as long as its guest.

mod cgroup;
mod config;
mod container;
mod devices;
mod disk;
mod halt;
mod huge;
mod idmap;
mod joined;
mod limits;
mod mounts;
mod named;
mod overlay;
mod process;
mod rootfs;
mod seccomp;
mod stores;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use koya_proto::v1;

pub use container::Container;
pub use process::Process;

use crate::children::Children;
use crate::error::{Result, StartError, deadline as passed, exists, invalid, limit, not_found, state};
use crate::streams::Broker;
use crate::sys::{Deadline, lock};

/// More containers than this are refused: each has threads, mounts and a cgroup.
const MAX_CONTAINERS: usize = 1024;

/// What everything here needs.
pub struct Ground {
    /// Every child of the agent.
    pub children: Children,
    /// Streams that have not been joined to a process.
    pub broker: Arc<Broker>,
    /// One folder per container with its config.json and rootfs.
    pub bundles: PathBuf,
    /// The container runtime's own state.
    pub runtime: PathBuf,
    /// Name of the cgroup that all containers are below.
    pub cgroup: String,
}

enum Entry {
    /// An id that is taken by a container that is being made or removed.
    Busy,
    Ready(Arc<Container>),
}

/// All of them, by id.
pub struct Containers {
    ground: Ground,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Containers {
    /// None yet; state goes into a folder, in which an earlier agent's is gone.
    pub fn new(
        state: &Path,
        cgroup: String,
        children: Children,
        broker: Arc<Broker>,
    ) -> std::result::Result<Self, StartError> {
        let (bundles, runtime) = (state.join("bundles"), state.join("runtime"));
        for folder in [&bundles, &runtime] {
            fs::create_dir_all(folder)
                .map_err(StartError::io(format!("make the folder {}", folder.display())))?;
        }
        let ground = Ground {
            children,
            broker,
            bundles,
            runtime,
            cgroup,
        };
        let entries = Mutex::default();
        Ok(Self { ground, entries })
    }

    /// Makes a container; nothing of it is left if that fails.
    pub fn create(&self, request: &v1::CreateRequest, deadline: Deadline) -> Result<u32> {
        check_id("id", &request.id)?;
        let id = &request.id;
        {
            let mut entries = lock(&self.entries);
            if entries.contains_key(id) {
                return Err(exists(format!("a container '{id}' exists already")));
            }
            if entries.len() >= MAX_CONTAINERS {
                return Err(limit(format!(
                    "there are {MAX_CONTAINERS} containers, which is the most an agent carries"
                )));
            }
            entries.insert(id.clone(), Entry::Busy);
        }
        // Held until the new one has what it takes of them.
        let joined = RefCell::new(Vec::new());
        let first_process = |id: &str| {
            let other = self.get(id)?;
            let pid = other.first_process()?;
            joined.borrow_mut().push(other);
            Ok(pid)
        };
        let created = Container::create(&self.ground, request, &first_process, deadline);
        drop(joined);
        let mut entries = lock(&self.entries);
        match created {
            Ok(container) => {
                let pid = container.init().pid();
                entries.insert(id.clone(), Entry::Ready(Arc::new(container)));
                Ok(pid)
            }
            Err(error) => {
                entries.remove(id);
                Err(error)
            }
        }
    }

    /// The container with an id.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        match lock(&self.entries).get(id) {
            Some(Entry::Ready(container)) => Ok(Arc::clone(container)),
            _ => Err(not_found(format!("no container '{id}' in this guest"))),
        }
    }

    /// Everything that runs processes or keeps files, by id.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let entries = lock(&self.entries);
        let ready = entries.values().filter_map(|entry| match entry {
            Entry::Ready(container) => Some(Arc::clone(container)),
            Entry::Busy => None,
        });
        ready.collect()
    }

    /// What everything here needs.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Starts a created container.
    pub fn start(&self, id: &str, deadline: Deadline) -> Result<()> {
        self.get(id)?.start(&self.ground, deadline)
    }

    /// Runs another process in a container.
    pub fn exec(&self, request: &v1::ExecRequest, deadline: Deadline) -> Result<u32> {
        check_id("exec_id", &request.exec_id)?;
        self.get(&request.id)?.exec(&self.ground, request, deadline)
    }

    /// Removes a container, with `purge` what it wrote to its scratch disk, too.
    /// If that fails half-way, it can be asked again.
    pub fn delete(&self, id: &str, force: bool, purge: bool, deadline: Deadline) -> Result<()> {
        if matches!(lock(&self.entries).get(id), Some(Entry::Busy)) {
            return Err(state(format!(
                "container '{id}' is just being created; try again"
            )));
        }
        let container = self.get(id)?;
        container.remove(&self.ground, force, purge, deadline)?;
        lock(&self.entries).remove(id);
        Ok(())
    }

    /// Removes them all, running or not: before the agent ends.
    pub fn remove_all(&self) {
        for container in self.all() {
            let deadline = Deadline::after(std::time::Duration::from_secs(5));
            if let Err(error) = container.remove(&self.ground, true, false, deadline) {
                eprintln!("koya-agent: container '{}': {error}", container.id());
            }
        }
        cgroup::remove_parent(&self.ground.cgroup);
    }

    /// Waits for a process's end and for its output to have gone.
    pub fn wait(&self, id: &str, exec: &str, deadline: Deadline) -> Result<v1::Exit> {
        let container = self.get(id)?;
        let process = container.process(exec)?;
        match process.wait(deadline) {
            Some(ended) => Ok(container.exit_message(&process, ended)),
            None => Err(passed(format!(
                "the deadline passed before {} ended",
                name(id, exec)
            ))),
        }
    }
}

/// A process in words.
fn name(id: &str, exec: &str) -> String {
    if exec.is_empty() {
        format!("container '{id}'")
    } else {
        format!("process '{exec}' of container '{id}'")
    }
}

/// Ids become names of folders and cgroups.
fn check_id(field: &str, id: &str) -> Result<()> {
    const LONGEST: usize = 128;
    let fine = id.len() <= LONGEST
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter));
    if fine {
        return Ok(());
    }
    let shown: String = id.chars().take(LONGEST).collect();
    Err(invalid(format!(
        "{field} is {shown:?}; want 1 to {LONGEST} of A-Z a-z 0-9 _ . - beginning with a letter or digit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_their_folder() {
        for good in ["web", "a", "0.x-y_z", &"a".repeat(128)] {
            check_id("id", good).unwrap();
        }
        for bad in ["", ".", "..", "-rf", "a/b", "a b", "ü", "a\n", &"a".repeat(129)] {
            assert!(check_id("id", bad).is_err(), "{bad:?}");
        }
    }
}
