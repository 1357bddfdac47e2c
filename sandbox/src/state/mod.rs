//! What the host knows about containers and their microVMs: one folder each, whose `state.json` is replaced by renames.
//!
//! ```text
//!  HOME/containers/ID/state.json, log …     what the user asked for, and how it goes
//!  HOME/containers/ID/stay                  somebody wants it to stay stopped once it has ended
//!  HOME/vms/ID/state.json, lock             lock: held by the monitor as long as the microVM runs
//!  HOME/vms/ID/waiting                      held by who waits to start containers again whose microVM has died
//!  HOME/vms/ID/vm.json, v.sock, api.sock, m.sock, scratch.ext4, …
//! ```
//!
//! There is no daemon. A microVM runs as long as somebody holds its lock; what the files say about a container whose
//! microVM's lock is free is the past. A microVM has the id of its first container, and goes with its last one.
//!
//! Who may write: of a container that runs, its microVM's monitor; of any other, whoever holds the microVM's lock.

mod container;
mod folder;
mod health;
mod restart;
mod vm;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

pub use container::{Container, Exit, LogSettings, NewContainer, Place, Settings, Status};
pub use health::{Health, HealthCheck, HealthStatus, Probe};
pub use restart::{RestartPolicy, RestartPolicyError, Restarts};
pub use vm::{Vm, VmSettings};

use crate::sandbox;

/// Characters of an id.
const ID_LENGTH: usize = 12;
/// The file that says that a container is to stay stopped.
const STAY: &str = "stay";
/// Longest name.
const MAX_NAME: usize = 63;

/// The state of containers cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file of it.
    #[error("cannot use {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The name is taken.
    #[error(
        "the name {name:?} is in use by {id}; remove that container (koya rm {name}), or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// A name that none can have.
    #[error(
        "{0:?} is no name: use 1 to {MAX_NAME} letters, digits, '_', '.' and '-', beginning with a letter or digit"
    )]
    BadName(String),
    /// Nothing is called so.
    #[error("no such container: {0}")]
    Unknown(String),
    /// Several ids begin so.
    #[error("{0} could be several containers; give more of the id, or the name")]
    Ambiguous(String),
    /// What is known of a container cannot be read.
    #[error(
        "the state of container {0} cannot be read, so that nobody knows what it uses; remove its folder, {1:?}, or what it uses by name"
    )]
    Unreadable(String, PathBuf),
    /// The microVM of a container is gone.
    #[error("the microVM {0} is not there any more")]
    NoVm(String),
}

/// All containers and microVMs of a user.
#[derive(Debug, Clone)]
pub struct Records {
    home: PathBuf,
    containers: PathBuf,
    vms: PathBuf,
}

/// That a microVM is ours to run or to remove, as long as this lives.
#[derive(Debug)]
pub struct VmLock {
    _file: File,
}

/// All containers; nobody makes another one as long as this lives.
#[derive(Debug)]
pub struct Still {
    /// The containers.
    pub containers: Vec<Container>,
    _lock: File,
}

impl Records {
    /// Those whose folders are in `home`; what is missing is made.
    ///
    /// # Errors
    /// [`StateError::File`]
    pub fn at(home: &Path) -> Result<Self, StateError> {
        let records = Self {
            home: home.to_owned(),
            containers: home.join("containers"),
            vms: home.join("vms"),
        };
        folder::private(&records.containers)?;
        folder::private(&records.vms)?;
        Ok(records)
    }

    /// Makes a container, and a microVM for it unless it names one. Its name is the id if none is wanted.
    ///
    /// # Errors
    /// [`StateError::NameTaken`], [`StateError::BadName`], [`StateError::NoVm`], [`StateError::File`]
    pub fn create(&self, new: NewContainer) -> Result<Container, StateError> {
        let id = new_id().map_err(file(Path::new("/dev/urandom")))?;
        let name = new.name.clone().unwrap_or_else(|| id.clone());
        if !is_name(&name) {
            return Err(StateError::BadName(name));
        }
        // Two that begin at once must not get one name.
        let _all = folder::lock_all(&self.containers)?;
        self.sweep();
        if let Some(taken) = self.list()?.into_iter().find(|known| known.name == name) {
            return Err(StateError::NameTaken { name, id: taken.id });
        }
        let vm = match new.place {
            Place::Vm(vm) if self.vm(&vm).is_some() => vm,
            Place::Vm(vm) => return Err(StateError::NoVm(vm)),
            Place::New(settings) => {
                let folder = self.vm_folder(&id);
                folder::private(&folder)?;
                folder::write(&folder, &Vm::new(&id, settings))?;
                id.clone()
            }
        };
        let container = Container::new(id, name, vm, now(), new.settings);
        folder::private(&self.folder(&container.id))?;
        self.save(&container)?;
        Ok(container)
    }

    /// All containers, for who removes what none of them uses.
    ///
    /// # Errors
    /// [`StateError::File`]; [`StateError::Unreadable`], since such a container may use anything.
    pub fn still(&self) -> Result<Still, StateError> {
        let lock = folder::lock_all(&self.containers)?;
        let mut containers = Vec::new();
        for id in folder::ids(&self.containers)? {
            match self.look(&id) {
                Some(container) => containers.push(container),
                None if folder::has_state(&self.folder(&id)) => {
                    let folder = self.folder(&id);
                    return Err(StateError::Unreadable(id, folder));
                }
                None => {}
            }
        }
        Ok(Still {
            containers,
            _lock: lock,
        })
    }

    /// All containers, the newest first, as they are now.
    ///
    /// # Errors
    /// [`StateError::File`]
    pub fn list(&self) -> Result<Vec<Container>, StateError> {
        let ids = folder::ids(&self.containers)?;
        let mut all: Vec<_> = ids.iter().filter_map(|id| self.look(id)).collect();
        all.sort_by(|one, other| (other.created, &other.id).cmp(&(one.created, &one.id)));
        Ok(all)
    }

    /// The one with this name, this id, or the only one whose id begins so.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::Ambiguous`], [`StateError::File`]
    pub fn find(&self, wanted: &str) -> Result<Container, StateError> {
        let mut all = self.list()?;
        let exact = all
            .iter()
            .position(|known| known.name == wanted || known.id == wanted);
        if let Some(index) = exact {
            return Ok(all.swap_remove(index));
        }
        all.retain(|known| !wanted.is_empty() && known.id.starts_with(wanted));
        match all.len() {
            0 => Err(StateError::Unknown(wanted.to_owned())),
            1 => Ok(all.swap_remove(0)),
            _ => Err(StateError::Ambiguous(wanted.to_owned())),
        }
    }

    /// A container by its whole id, as it is now; `None` if it is gone.
    pub fn look(&self, id: &str) -> Option<Container> {
        let mut container: Container = folder::read(&self.folder(id))?;
        if container.id != id {
            return None;
        }
        let waits = container.status == Status::Restarting && self.is_waited_for(&container.vm);
        if container.is_active() && !waits && !self.runs(&container.vm) {
            // Whoever ran it died before he could say how it ended.
            container.status = Status::Dead;
            container.pid = None;
            container.exit = Some(Exit::killed("its monitor died"));
        }
        Some(container)
    }

    /// Writes what is known of a container, whole or not at all.
    ///
    /// # Errors
    /// [`StateError::File`]
    pub fn save(&self, container: &Container) -> Result<(), StateError> {
        folder::write(&self.folder(&container.id), container)
    }

    /// Removes a container that does not run, and its microVM if it was the last. Its microVM must not run, or this is
    /// called by its monitor.
    ///
    /// # Errors
    /// [`StateError::File`]
    pub fn forget(&self, container: &Container) -> Result<(), StateError> {
        let _all = folder::lock_all(&self.containers)?;
        folder::remove(&self.folder(&container.id))?;
        if !self.is_inhabited(&container.vm)? {
            folder::remove(&self.vm_folder(&container.vm))?;
        }
        Ok(())
    }

    /// A microVM by its id; `None` if it is gone.
    pub fn vm(&self, id: &str) -> Option<Vm> {
        folder::read(&self.vm_folder(id)).filter(|vm: &Vm| vm.id == id)
    }

    /// Writes what is known of a microVM, whole or not at all.
    ///
    /// # Errors
    /// [`StateError::File`]
    pub fn save_vm(&self, vm: &Vm) -> Result<(), StateError> {
        folder::write(&self.vm_folder(&vm.id), vm)
    }

    /// Whether a microVM has a monitor.
    pub fn runs(&self, vm: &str) -> bool {
        folder::is_held(&self.vm_folder(vm))
    }

    /// Says that this process waits to start containers of a microVM again, which does not run until then. To be called
    /// while it still does.
    pub(crate) fn wait_for(&self, vm: &str) -> Result<VmLock, StateError> {
        let file = folder::wait(&self.vm_folder(vm))?;
        Ok(VmLock { _file: file })
    }

    /// Whether some process does.
    pub(crate) fn is_waited_for(&self, vm: &str) -> bool {
        folder::is_waited_for(&self.vm_folder(vm))
    }

    /// Takes a microVM, unless somebody else has it.
    ///
    /// # Errors
    /// [`StateError::NoVm`], [`StateError::File`]
    pub fn lock_vm(&self, vm: &str) -> Result<Option<VmLock>, StateError> {
        if self.vm(vm).is_none() {
            return Err(StateError::NoVm(vm.to_owned()));
        }
        Ok(folder::lock(&self.vm_folder(vm))?.map(|file| VmLock { _file: file }))
    }

    /// The folder of the user, in which everything is.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder of a container.
    pub fn folder(&self, container: &str) -> PathBuf {
        self.containers.join(container)
    }

    /// The folder of a microVM.
    pub fn vm_folder(&self, vm: &str) -> PathBuf {
        self.vms.join(vm)
    }

    /// The disk of a container's image, or a link to it.
    pub fn image(&self, container: &str) -> PathBuf {
        self.folder(container).join("image.erofs")
    }

    /// Has a container that ends not be started again, whatever its restart policy is.
    ///
    /// # Errors
    /// [`StateError::File`]
    pub fn ask_to_stay(&self, container: &Container) -> Result<(), StateError> {
        if container.settings.restart == RestartPolicy::No {
            return Ok(());
        }
        let path = self.folder(&container.id).join(STAY);
        match fs::write(&path, "") {
            // It has been removed meanwhile.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a container is to stay as it is once it has ended.
    pub fn stays(&self, container: &str) -> bool {
        let folder = self.folder(container);
        folder.join(STAY).exists() || !folder.exists()
    }

    /// Somebody starts it: what was wished before does not count any more.
    pub(crate) fn forget_stay(&self, container: &str) {
        let _ = fs::remove_file(self.folder(container).join(STAY));
    }

    /// The socket through which ports of a container's guest are reached, while it runs.
    pub fn vsock(&self, container: &Container) -> PathBuf {
        sandbox::vsock(&self.vm_folder(&container.vm))
    }

    /// Ends the VMM of a microVM that runs, whatever its guest does. Its monitor then ends, too.
    pub fn kill_vmm(&self, id: &str) {
        self.kill(id, |vm| vm.vmm_pid);
    }

    /// Ends the monitor of a microVM that runs, and the VMM with it. What the monitor would have cleared up stays.
    pub fn kill_monitor(&self, id: &str) {
        self.kill(id, |vm| vm.monitor_pid);
    }

    fn kill(&self, id: &str, which: impl Fn(&Vm) -> Option<u32>) {
        let vm = self.vm(id).filter(|_| self.runs(id));
        let Some(pid) = vm.as_ref().and_then(which) else {
            return;
        };
        let folder = self.vm_folder(id);
        // The number may be another process's by now.
        let works_there = fs::read_link(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| folder.canonicalize().is_ok_and(|ours| ours == cwd));
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let (true, Some(pid)) = (works_there, pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Whether a container is left that belongs to a microVM. One whose state cannot be read might.
    fn is_inhabited(&self, vm: &str) -> Result<bool, StateError> {
        let mut ids = folder::ids(&self.containers)?.into_iter();
        Ok(ids.any(|id| match folder::read::<Container>(&self.folder(&id)) {
            Some(container) => container.vm == vm,
            None => folder::has_state(&self.folder(&id)),
        }))
    }

    /// Removes what a process left that died while it made or removed a container. To be called under the lock of all.
    fn sweep(&self) {
        folder::sweep(&self.containers);
        folder::sweep(&self.vms);
        for id in folder::ids(&self.containers).into_iter().flatten() {
            let folder = self.folder(&id);
            if !folder::has_state(&folder) {
                let _ = folder::remove(&folder);
            }
        }
        for id in folder::ids(&self.vms).into_iter().flatten() {
            if !self.runs(&id) && matches!(self.is_inhabited(&id), Ok(false)) {
                let _ = folder::remove(&self.vm_folder(&id));
            }
        }
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { path, source }
}

/// Nanoseconds since 1970 UTC.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn is_name(name: &str) -> bool {
    let fits = |at: usize, letter: char| {
        letter.is_ascii_alphanumeric() || (at > 0 && matches!(letter, '_' | '.' | '-'))
    };
    (1..=MAX_NAME).contains(&name.len()) && name.chars().enumerate().all(|(at, letter)| fits(at, letter))
}

/// 12 random hexadecimal digits.
///
/// # Errors
/// When the host has no random numbers.
pub fn new_id() -> io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; ID_LENGTH / 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
