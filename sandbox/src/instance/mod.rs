//! What the host knows about its instances: one folder each, whose `state.json` is replaced by renames.
//!
//! ```text
//!  ROOT/ID/state.json   who it is          ROOT/ID/lock   held as long as its `koya run` lives
//!  ROOT/ID/vm.json, v.sock, api.sock, scratch.ext4        the microVM's
//! ```
//!
//! There is no daemon. An instance runs as long as somebody holds its lock; what the file says about a running one whose
//! lock is free is the past.

mod folder;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::container::ProcessSpec;
use crate::sandbox;

/// Characters of an id.
const ID_LENGTH: usize = 12;
/// Longest name.
const MAX_NAME: usize = 63;
/// How long a lock may be held by somebody who only looks, or is about to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The state of instances cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
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
    /// It runs, and must not.
    #[error("container {0} is running; stop it first, or use force")]
    Running(String),
}

/// OCI runtime specification, section "State", as far as it can be told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The microVM boots.
    Creating,
    /// Its first process runs.
    Running,
    /// It has ended.
    Stopped,
}

/// What `state.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// 12 hexadecimal digits.
    pub id: String,
    /// Unique among all instances.
    pub name: String,
    /// As the user named it.
    pub image: String,
    /// The first process and its arguments.
    pub command: Vec<String>,
    /// Seconds since 1970 UTC.
    pub created: u64,
    /// What it was when this was written.
    pub status: Status,
    /// The VMM's process, while it runs.
    pub vmm_pid: Option<u32>,
    /// How its first process ended.
    pub exit_code: Option<u8>,
    /// The signal that asks its first process to end.
    pub stop_signal: u32,
    /// What its first process is; others in it are like that unless they are told otherwise.
    pub process: ProcessSpec,
}

/// All instances of a user.
#[derive(Debug, Clone)]
pub struct Instances {
    root: PathBuf,
}

/// An instance that is ours to change, as long as this lives.
#[derive(Debug)]
pub struct Instance {
    folder: PathBuf,
    /// What was saved last.
    pub state: State,
    /// Its lock is ours.
    _lock: File,
}

impl Instances {
    /// Those whose folders are in `root`, which is made if it is not there.
    ///
    /// # Errors
    /// [`InstanceError::File`]
    pub fn at(root: &Path) -> Result<Self, InstanceError> {
        folder::private(root).map_err(file(root))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Makes a new one. Its name is the id if none is wanted.
    ///
    /// # Errors
    /// [`InstanceError::NameTaken`], [`InstanceError::BadName`], [`InstanceError::File`]
    pub fn create(
        &self,
        name: Option<&str>,
        image: &str,
        process: &ProcessSpec,
        stop_signal: u32,
    ) -> Result<Instance, InstanceError> {
        let id = new_id().map_err(file(Path::new("/dev/urandom")))?;
        let name = name.unwrap_or(&id);
        if !is_name(name) {
            return Err(InstanceError::BadName(name.to_owned()));
        }
        // Two that begin at once must not get one name.
        let _all = self.lock_all()?;
        folder::sweep(&self.root);
        if let Some(taken) = self.list()?.into_iter().find(|state| state.name == name) {
            return Err(InstanceError::NameTaken {
                name: name.to_owned(),
                id: taken.id,
            });
        }
        let folder = self.root.join(&id);
        folder::private(&folder).map_err(file(&folder))?;
        let lock = folder::new_lock(&folder)?;
        let instance = Instance {
            folder,
            state: State {
                name: name.to_owned(),
                image: image.to_owned(),
                command: process.args.clone(),
                created: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                status: Status::Creating,
                vmm_pid: None,
                exit_code: None,
                stop_signal,
                process: process.clone(),
                id: id.clone(),
            },
            _lock: lock,
        };
        instance.save()?;
        Ok(instance)
    }

    /// All there are, the newest first, as they are now. Folders that hold no state are skipped: they are being made, or
    /// removed.
    ///
    /// # Errors
    /// [`InstanceError::File`]
    pub fn list(&self) -> Result<Vec<State>, InstanceError> {
        let mut states = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(file(&self.root))? {
            let folder = entry.map_err(file(&self.root))?.path();
            if let Some(state) = folder::read(&folder) {
                states.push(state);
            }
        }
        states.sort_by(|one, other| (other.created, &other.id).cmp(&(one.created, &one.id)));
        Ok(states)
    }

    /// The one with this name, this id, or the only one whose id begins so.
    ///
    /// # Errors
    /// [`InstanceError::Unknown`], [`InstanceError::Ambiguous`], [`InstanceError::File`]
    pub fn find(&self, wanted: &str) -> Result<State, InstanceError> {
        let mut states = self.list()?;
        let exact = states
            .iter()
            .position(|state| state.name == wanted || state.id == wanted);
        if let Some(index) = exact {
            return Ok(states.swap_remove(index));
        }
        states.retain(|state| !wanted.is_empty() && state.id.starts_with(wanted));
        match states.len() {
            0 => Err(InstanceError::Unknown(wanted.to_owned())),
            1 => Ok(states.swap_remove(0)),
            _ => Err(InstanceError::Ambiguous(wanted.to_owned())),
        }
    }

    /// Removes one that does not run, with everything in its folder.
    ///
    /// # Errors
    /// [`InstanceError::Running`], [`InstanceError::File`]
    pub fn remove(&self, state: &State) -> Result<(), InstanceError> {
        let folder = self.root.join(&state.id);
        let start = Instant::now();
        let _lock = loop {
            if let Some(lock) = folder::lock(&folder)? {
                break lock;
            }
            let stopped = folder::read(&folder).is_none_or(|now| now.status == Status::Stopped);
            if !stopped && start.elapsed() >= Duration::from_millis(200) || start.elapsed() >= LOCK_PATIENCE {
                return Err(InstanceError::Running(state.name.clone()));
            }
            // Somebody looks, or the process that ran it is about to end.
            thread::sleep(Duration::from_millis(10));
        };
        folder::remove(&folder)
    }

    /// The state of one by its whole id, as it is now; `None` if it is gone.
    pub fn look(&self, id: &str) -> Option<State> {
        folder::read(&self.root.join(id))
    }

    /// Ends the VMM of one that runs, whatever its guest does. Nothing if it has ended.
    pub fn kill_vmm(&self, state: &State) {
        let folder = self.root.join(&state.id);
        let Some(pid) = folder::read(&folder).and_then(|now| now.vmm_pid) else {
            return;
        };
        // The number may be another process's by now.
        let works_there = fs::read_link(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| folder.canonicalize().is_ok_and(|ours| ours == cwd));
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if let (true, Some(pid)) = (works_there, pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// The socket through which ports of its guest are reached, while it runs.
    pub fn vsock(&self, state: &State) -> PathBuf {
        sandbox::vsock(&self.root.join(&state.id))
    }

    fn lock_all(&self) -> Result<File, InstanceError> {
        let folder = File::open(&self.root).map_err(file(&self.root))?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| file(&self.root)(error.into()))?;
        Ok(folder)
    }
}

impl Instance {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes its state, whole or not at all.
    ///
    /// # Errors
    /// [`InstanceError::File`]
    pub fn save(&self) -> Result<(), InstanceError> {
        let path = self.folder.join(folder::STATE);
        let unfinished = self.folder.join("state.json.new");
        let text = serde_json::to_vec_pretty(&self.state).map_err(|error| file(&path)(error.into()))?;
        let mut new = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(file(&unfinished))?;
        new.write_all(&text)
            .and_then(|()| new.sync_all())
            .map_err(file(&unfinished))?;
        fs::rename(&unfinished, &path).map_err(file(&path))
    }

    /// Removes it with everything in its folder.
    ///
    /// # Errors
    /// [`InstanceError::File`]
    pub fn remove(self) -> Result<(), InstanceError> {
        folder::remove(&self.folder)
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::File { path, source }
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
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> (Self, Instances) {
            let path = std::env::temp_dir().join(format!("koya-instances-{}-{name}", std::process::id()));
            let instances = Instances::at(&path).unwrap();
            (Self(path), instances)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn shell() -> ProcessSpec {
        ProcessSpec {
            args: vec!["sh".into()],
            env: Vec::new(),
            cwd: "/".into(),
            user: (0, 0),
            terminal: false,
            privileged: false,
        }
    }

    #[test]
    fn nobody_else_looks_into_a_container() {
        use std::os::unix::fs::PermissionsExt;
        let (root, instances) = Root::new("modes");
        let instance = instances.create(None, "debian", &shell(), 15).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&root.0), mode(instance.folder())), (0o700, 0o700));
        assert_eq!(mode(&instance.folder().join("state.json")), 0o600);
    }

    #[test]
    fn what_a_dead_process_left_half_made_is_removed_by_the_next() {
        let (root, instances) = Root::new("sweep");
        fs::create_dir_all(root.0.join(".gone-0123456789ab/x")).unwrap();
        fs::create_dir_all(root.0.join("0123456789ab")).unwrap();
        // Neither is a half-made instance of ours.
        fs::create_dir_all(root.0.join("photographs")).unwrap();
        fs::create_dir_all(root.0.join("ba9876543210")).unwrap();
        fs::write(root.0.join("ba9876543210/state.json"), r#"{"version": 9}"#).unwrap();
        let instance = instances.create(None, "debian", &shell(), 15).unwrap();
        let mut left: Vec<_> = fs::read_dir(&root.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        left.sort();
        let mut kept = vec![
            root.0.join("ba9876543210"),
            root.0.join("photographs"),
            instance.folder().to_owned(),
        ];
        kept.sort();
        assert_eq!(left, kept);
    }

    #[test]
    fn names_are_unique_and_free_again_after_removal() {
        let (_root, instances) = Root::new("names");
        let first = instances.create(Some("web"), "debian", &shell(), 15).unwrap();
        let error = instances.create(Some("web"), "debian", &shell(), 15).unwrap_err();
        assert!(
            matches!(&error, InstanceError::NameTaken { id, .. } if *id == first.state.id),
            "{error}"
        );
        first.remove().unwrap();
        instances.create(Some("web"), "debian", &shell(), 15).unwrap();
        for name in ["", "-a", "a/b", "a b", "ä", &"x".repeat(64)] {
            let error = instances.create(Some(name), "debian", &shell(), 15).unwrap_err();
            assert!(matches!(error, InstanceError::BadName(_)), "{name:?}");
        }
    }

    #[test]
    fn an_instance_whose_process_died_has_stopped() {
        let (_root, instances) = Root::new("died");
        let mut instance = instances.create(Some("web"), "debian", &shell(), 15).unwrap();
        instance.state.status = Status::Running;
        instance.state.vmm_pid = Some(1);
        instance.save().unwrap();
        let state = instances.find("web").unwrap();
        assert_eq!((state.status, state.vmm_pid), (Status::Running, Some(1)));
        assert!(matches!(instances.remove(&state), Err(InstanceError::Running(_))));

        drop(instance);
        let state = instances.find("web").unwrap();
        assert_eq!((state.status, state.vmm_pid), (Status::Stopped, None));
        instances.remove(&state).unwrap();
        assert!(matches!(instances.find("web"), Err(InstanceError::Unknown(_))));
    }

    #[test]
    fn ids_can_be_shortened_as_long_as_they_are_clear() {
        let (_root, instances) = Root::new("ids");
        let first = instances.create(None, "debian", &shell(), 15).unwrap();
        let second = instances.create(None, "debian", &shell(), 15).unwrap();
        assert_eq!(instances.find(&first.state.id[..11]).unwrap(), first.state);
        assert!(matches!(instances.find(""), Err(InstanceError::Unknown(_))));
        let both = instances.list().unwrap();
        assert_eq!(both.len(), 2);
        assert_ne!(first.state.id, second.state.id);
    }

    #[test]
    fn rubbish_among_the_folders_is_nobodys_instance() {
        let (root, instances) = Root::new("rubbish");
        fs::create_dir_all(root.0.join("half-made")).unwrap();
        fs::create_dir_all(root.0.join("wrong")).unwrap();
        fs::write(root.0.join("wrong/state.json"), "{").unwrap();
        fs::write(root.0.join("file"), "").unwrap();
        assert_eq!(instances.list().unwrap(), []);
    }
}
