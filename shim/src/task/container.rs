//! One container: its first process, and those that were added.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::process::Process;
use crate::args::is_name;
use crate::error::TaskError;

/// Processes that are added to one container, at a time.
const MAX_EXECS: usize = 1024;

/// A container.
pub struct Container {
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its first process.
    pub first: Arc<Process>,
    others: Mutex<HashMap<String, Exec>>,
}

/// A process that was added.
#[derive(Clone)]
pub struct Exec {
    /// It.
    pub process: Arc<Process>,
    /// What it is to be, as JSON.
    pub spec: Arc<Vec<u8>>,
}

impl Container {
    /// One with nothing but its first process.
    pub fn new(bundle: PathBuf, first: Process) -> Self {
        Self {
            bundle,
            first: Arc::new(first),
            others: Mutex::default(),
        }
    }

    /// Where its root is mounted.
    pub fn rootfs(&self) -> PathBuf {
        rootfs(&self.bundle)
    }

    /// A process of it; the first one has no name.
    ///
    /// # Errors
    /// [`TaskError::NoProcess`]
    pub fn process(&self, exec: &str) -> Result<Arc<Process>, TaskError> {
        match exec {
            "" => Ok(Arc::clone(&self.first)),
            _ => self.exec(exec).map(|exec| exec.process),
        }
    }

    /// One that was added.
    ///
    /// # Errors
    /// [`TaskError::NoProcess`]
    pub fn exec(&self, exec: &str) -> Result<Exec, TaskError> {
        self.others().get(exec).cloned().ok_or_else(|| self.unknown(exec))
    }

    /// Adds one.
    ///
    /// # Errors
    /// [`TaskError::Id`], [`TaskError::Exists`], [`TaskError::Full`]
    pub fn add(&self, process: Process, spec: Vec<u8>) -> Result<(), TaskError> {
        let name = process.exec.clone();
        if !is_name(&name) {
            return Err(TaskError::Id(name));
        }
        let mut others = self.others();
        if others.len() >= MAX_EXECS {
            return Err(TaskError::Full(MAX_EXECS, "processes in the container"));
        }
        if others.contains_key(&name) {
            return Err(TaskError::Exists(name));
        }
        let exec = Exec {
            process: Arc::new(process),
            spec: Arc::new(spec),
        };
        others.insert(name, exec);
        Ok(())
    }

    /// Forgets one that was added.
    ///
    /// # Errors
    /// [`TaskError::NoProcess`]
    pub fn remove(&self, exec: &str) -> Result<(), TaskError> {
        let removed = self.others().remove(exec);
        removed.map(drop).ok_or_else(|| self.unknown(exec))
    }

    /// All that have a process of the host.
    pub fn pids(&self) -> Vec<u32> {
        let others = self.others();
        let all = others.values().map(|exec| &exec.process);
        std::iter::once(&self.first)
            .chain(all)
            .map(|process| process.seen())
            .filter(|seen| seen.pid != 0 && seen.exit.is_none())
            .map(|seen| seen.pid)
            .collect()
    }

    /// Those that were added.
    pub fn all_others(&self) -> Vec<Arc<Process>> {
        let others = self.others();
        others.values().map(|exec| Arc::clone(&exec.process)).collect()
    }

    fn unknown(&self, exec: &str) -> TaskError {
        TaskError::NoProcess {
            id: self.first.id.clone(),
            exec: exec.to_owned(),
        }
    }

    fn others(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the root of a bundle is mounted.
pub fn rootfs(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}
