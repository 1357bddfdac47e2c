//! What is known of a container, as it is kept on disk and as it is told (OCI runtime specification, section "State").

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use koya_sandbox::bundle::Hooks;
use koya_sandbox::network::{Namespace, takeover};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cgroup::{self, Cgroup};
use crate::error::RuntimeError;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its microVM boots.
    Creating,
    /// Its program has not been started.
    Created,
    /// Its program has been started and has not ended.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its program has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A process that may have ended, and whose number may be another's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since the host booted.
    began: u64,
}

impl Process {
    /// The one that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        let began = began(pid)?;
        Some(Self { pid, began })
    }

    /// Whether it has not been waited for yet, or still runs.
    pub fn is_there(&self) -> bool {
        began(self.pid) == Some(self.began) && !has_ended(self.pid)
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Opened before it is looked at, so that it cannot become another's in between.
        let opened = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(process) = opened
            && began(self.pid) == Some(self.began)
        {
            let _ = pidfd_send_signal(process, signal);
        }
    }
}

/// Fields 3 and 20 of /proc/PID/stat: a process that only waits for somebody to ask how it ended. While another thread of it
/// is on its way out, its files are still open.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return true;
    };
    let mut fields = fields.split_whitespace();
    let (state, threads) = (fields.next(), fields.nth(16));
    matches!(state, None | Some("Z" | "X"))
        && !threads.is_some_and(|threads| threads != "0" && threads != "1")
}

/// Field 22 of /proc/PID/stat (proc(5)); the second is a name that may hold anything.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the specification that its `config.json` names.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// As its monitor saw it last; see [`Store`](crate::store::Store).
    pub status: Status,
    /// The process that stands for it on the host.
    pub process: Option<Process>,
    /// Those that belong to it beside: monitor, VMM, virtiofsd.
    pub helpers: Vec<Process>,
    /// The one of them that serves files, to containers that come later to this one's microVM as well.
    #[serde(default)]
    pub server: Option<Process>,
    /// The container in whose microVM it is, if it has none of its own.
    #[serde(default)]
    pub house: Option<String>,
    /// By what name that one's virtiofsd serves its files.
    #[serde(default)]
    pub served: Option<String>,
    /// The memory that it shares with others; its own id if it is the first of them.
    #[serde(default)]
    pub memory: Option<String>,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// When it was created, in the form of RFC 3339.
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// Those of its `config.json`.
    pub annotations: BTreeMap<String, String>,
    /// Programs that want to be told.
    pub hooks: Hooks,
    /// Its first process, after which others are modelled.
    pub first: Value,
    /// The cgroup that was made for it on the host.
    pub cgroup: Option<Cgroup>,
    /// The network namespace that its microVM has taken over, if somebody else has made it.
    #[serde(default)]
    pub network: Option<TakenOver>,
}

/// A network namespace that may be there longer than a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// Where it was.
    path: PathBuf,
    /// Device and number of its file: another one may be there by now.
    identity: (u64, u64),
}

impl TakenOver {
    /// The one that is at `path` now.
    pub fn of(path: &Path) -> Option<Self> {
        let identity = Namespace::open(path).ok()?.identity().ok()?;
        Some(Self {
            path: path.to_owned(),
            identity,
        })
    }

    /// Leaves nothing in it. One that is gone is as wished.
    ///
    /// # Errors
    /// [`RuntimeError`]
    pub fn give_back(&self) -> Result<(), RuntimeError> {
        match Namespace::open(&self.path) {
            Ok(namespace) if namespace.identity().ok() == Some(self.identity) => {
                Ok(takeover::give_back(&namespace)?)
            }
            _ => Ok(()),
        }
    }
}

impl Record {
    /// The state as engines and hooks are told it.
    pub fn state(&self) -> Value {
        json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": self.status,
            "pid": self.pid(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "owner": self.owner(),
            "annotations": self.annotations,
        })
    }

    /// What systemd sends to all processes of its scope, if it has one, to end it.
    pub fn stop_signal(&self) -> Option<i32> {
        match self.cgroup {
            Some(Cgroup::Scope(_)) => Some(cgroup::STOP),
            _ => None,
        }
    }

    /// The name of who created it, as runc has it: `#` and a number for somebody without one.
    pub fn owner(&self) -> String {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        name_of(&users, self.owner).map_or_else(|| format!("#{}", self.owner), str::to_owned)
    }

    /// The process that stands for it; 0 once it has stopped.
    pub fn pid(&self) -> u32 {
        match self.status {
            Status::Stopped => 0,
            _ => self.process.map_or(0, |process| process.pid),
        }
    }
}

/// The name of a user in the text of passwd(5).
fn name_of(users: &str, id: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn users_have_names() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1000::/:/bin/sh\n";
        assert_eq!(name_of(users, 1000), Some("ada"));
        assert_eq!(name_of(users, 0), Some("root"));
        assert_eq!(name_of(users, 7), None);
    }

    /// A container that is being created.
    pub fn record(id: &str) -> Record {
        Record {
            oci_version: "1.2.0".to_owned(),
            id: id.to_owned(),
            status: Status::Creating,
            process: None,
            helpers: Vec::new(),
            server: None,
            house: None,
            served: None,
            memory: None,
            bundle: "/nowhere".into(),
            rootfs: "/nowhere/rootfs".into(),
            created: String::new(),
            owner: 0,
            annotations: BTreeMap::new(),
            hooks: Hooks::default(),
            first: Value::Null,
            cgroup: None,
            network: None,
        }
    }

    #[test]
    fn a_process_that_has_ended_is_not_there() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_there());
        let other = Process {
            began: process.began.wrapping_add(1),
            ..process
        };
        // A number that is another's by now gets no signal.
        other.signal(Signal::KILL);
        assert!(process.is_there() && !other.is_there());
        process.signal(Signal::KILL);
        // It waits for somebody to ask how it ended, and is no process any more.
        let late = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while process.is_there() {
            assert!(std::time::Instant::now() < late);
        }
        child.wait().unwrap();
        assert_eq!(Process::of(child.id()), None);
    }
}
