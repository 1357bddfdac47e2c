//! Where this shim is counted: in the cgroup of the host that its first container has, as all that a pod costs is to be seen
//! in the pod's. Before that container's cgroup is removed, it goes back to where it began.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the tree of cgroup v2 is.
const TREE: &str = "/sys/fs/cgroup";

/// A place among the cgroups.
pub struct Seat {
    /// Where this process began.
    home: Option<PathBuf>,
    /// The container in whose cgroup it is.
    with: Mutex<Option<String>>,
}

impl Seat {
    /// Where this process is now.
    pub fn here() -> Self {
        Self {
            home: cgroup_of("self"),
            with: Mutex::default(),
        }
    }

    /// Joins the cgroup of the container that `pid` stands for, unless it is in that of another one. A host that does not
    /// allow that counts this process where it is.
    pub fn join(&self, container: &str, pid: u32) {
        let mut with = self.with();
        let wanted =
            cgroup_of(&pid.to_string()).filter(|wanted| with.is_none() && Some(wanted) != self.home.as_ref());
        if let Some(wanted) = wanted
            && enter(&wanted).is_ok()
        {
            *with = Some(container.to_owned());
        }
    }

    /// Leaves the cgroup of a container that is about to be deleted.
    pub fn leave(&self, container: &str) {
        let mut with = self.with();
        if with.as_deref() != Some(container) {
            return;
        }
        let home = self.home.as_deref().map(enter);
        // It may be gone.
        if !matches!(home, Some(Ok(()))) {
            let _ = enter(Path::new(TREE));
        }
        *with = None;
    }

    fn with(&self) -> MutexGuard<'_, Option<String>> {
        self.with.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn enter(cgroup: &Path) -> io::Result<()> {
    // 0 is whoever writes.
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// The cgroup of a process; none where there is only version 1.
fn cgroup_of(pid: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(TREE).join(path))
}
