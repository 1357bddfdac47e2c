//! The microVM that a container is in: its own, or that of another container, whose namespaces it shares. The first
//! container of a microVM is the one that it was made for, and takes the others with it when it ends, as a pod's does.
//!
//! ```text
//!  monitor of the first ──owns──► VMM, virtiofsd ◄── volumes of others, each in a folder of its own
//!                                   │
//!  monitor of another ──calls────► agent: create, start, wait, delete
//! ```

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::client::{AgentClient, connect, connect_as};
use koya_proto::error::ErrorKind;
use koya_proto::{PROTOCOL_MAJOR, PROTOCOL_MINOR, RPC_PORT};
use koya_sandbox::bundle::{Neighbour, Neighbours};
use koya_sandbox::volumes::{LaterVolumes, Volume, Volumes};
use koya_sandbox::{Devices, Disk, Lent, Sandbox, hybrid, vsock};

use crate::error::RuntimeError;
use crate::record::{Record, Status};
use crate::store::Store;

/// The agent accepts at once; an emulated host is slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one may take to answer at the end of a container, for which an engine waits. Whoever deletes it tries again.
const ANSWERING: Duration = Duration::from_millis(1500);
/// How long an agent may take to remove a container.
const REMOVING: Duration = Duration::from_secs(5);
/// Until another try, while it makes one.
const PAUSE: Duration = Duration::from_millis(50);

/// The containers that live, as bundles name them.
pub fn neighbours(store: &Store) -> Neighbours {
    let living = store.list().into_iter().filter(|record| {
        let lives = matches!(record.status, Status::Created | Status::Running | Status::Paused);
        lives && record.pid() != 0
    });
    living
        .map(|record| Neighbour {
            pid: record.pid(),
            house: record.house.clone().unwrap_or_else(|| record.id.clone()),
            memory: record.memory.clone().unwrap_or_else(|| record.id.clone()),
            id: record.id,
        })
        .collect()
}

/// The socket through which the guest of a container is reached.
pub fn door(store: &Store, record: &Record) -> PathBuf {
    vsock(&store.folder(record.house.as_ref().unwrap_or(&record.id)))
}

/// The agent behind such a socket.
pub fn reach(vsock: &Path) -> Result<AgentClient, RuntimeError> {
    Ok(connect(call(vsock, PATIENCE)?)?)
}

/// The same, for those who have no time for a guest that hangs.
fn reach_within(vsock: &Path, patience: Duration) -> Result<AgentClient, RuntimeError> {
    let line = call(vsock, patience)?;
    Ok(connect_as(line, PROTOCOL_MAJOR, PROTOCOL_MINOR, patience)?)
}

fn call(vsock: &Path, patience: Duration) -> Result<UnixStream, RuntimeError> {
    hybrid::connect(vsock, RPC_PORT, patience).map_err(RuntimeError::system("reach the container's agent"))
}

/// Removes what a container has left in the microVM of another one, whose monitor was killed or has ended.
///
/// # Errors
/// [`RuntimeError`]; a microVM that is gone has nothing left of it.
pub fn forget(store: &Store, record: &Record) -> Result<(), RuntimeError> {
    let Some(house) = &record.house else { return Ok(()) };
    let Ok(first) = store.load(house) else {
        return Ok(());
    };
    if first.status == Status::Stopped {
        return Ok(());
    }
    let deleted = reach_within(&door(store, record), REMOVING).and_then(|agent| delete(&agent, &record.id));
    let removed = match first.server {
        Some(server) if server.is_there() => {
            LaterVolumes::remove(server.pid, record.served.as_deref().unwrap_or(&record.id))
        }
        _ => Ok(()),
    };
    deleted?;
    let holder = record.served.as_deref().unwrap_or(&record.id);
    Devices::of(&store.folder(house)).give_back(holder)?;
    Ok(removed?)
}

/// Has the agent remove a container, also one that it is just making.
fn delete(agent: &AgentClient, id: &str) -> Result<(), RuntimeError> {
    let begun = Instant::now();
    loop {
        let outcome = agent.clone().with_deadline(REMOVING).delete(id, true);
        let Err(error) = outcome else { return Ok(()) };
        match error.kind() {
            Some(ErrorKind::ERROR_KIND_NOT_FOUND) => return Ok(()),
            Some(ErrorKind::ERROR_KIND_STATE) if begun.elapsed() < REMOVING => thread::sleep(PAUSE),
            _ => return Err(error.into()),
        }
    }
}

/// The microVM of a container, as its monitor has it.
pub enum House {
    /// Its own, which ends with it.
    Own {
        /// The microVM.
        sandbox: Sandbox,
        /// Its files, until it is left.
        volumes: Mutex<Option<Volumes>>,
    },
    /// Another one's.
    Shared(Guest),
}

/// A container in the microVM of another one.
pub struct Guest {
    id: String,
    agent: AgentClient,
    /// The agent's connection.
    line: UnixStream,
    vsock: PathBuf,
    /// Until it is left.
    volumes: Mutex<Option<LaterVolumes>>,
    devices: Devices,
    /// By what name it holds disks there, and which.
    holder: String,
    disks: Vec<Lent>,
}

impl House {
    /// Joins the microVM of the container `first`, with these volumes and disks.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is left then.
    pub fn join(
        store: &Store,
        record: &Record,
        first: &str,
        volumes: &[Volume],
        disks: &[Disk],
    ) -> Result<Self, RuntimeError> {
        let gone = || RuntimeError::Gone(first.to_owned());
        let server = store.load(first)?.server.filter(|server| server.is_there());
        let server = server.ok_or_else(gone)?;
        let name = record.served.as_ref().unwrap_or(&record.id);
        let vsock = door(store, record);
        let line = call(&vsock, PATIENCE)?;
        let copy = line
            .try_clone()
            .map_err(RuntimeError::system("keep a connection"))?;
        let agent = connect(OwnedFd::from(line))?;
        let mut guest = Guest {
            id: record.id.clone(),
            agent,
            line: copy,
            vsock,
            volumes: Mutex::new(Some(LaterVolumes::add(server.pid, name, volumes)?)),
            devices: Devices::of(&store.folder(first)),
            holder: name.clone(),
            disks: Vec::new(),
        };
        match guest.devices.lend(name, disks) {
            Ok(lent) => guest.disks = lent,
            Err(error) => {
                // What it has been given so far goes with it.
                drop(Self::Shared(guest));
                return Err(error.into());
            }
        }
        Ok(Self::Shared(guest))
    }

    /// The disks that a container has in the microVM of another one, in the order in which it wanted them.
    pub fn lent(&self) -> &[Lent] {
        match self {
            Self::Own { .. } => &[],
            Self::Shared(guest) => &guest.disks,
        }
    }

    /// The agent.
    pub fn agent(&self) -> &AgentClient {
        match self {
            Self::Own { sandbox, .. } => sandbox.agent(),
            Self::Shared(guest) => &guest.agent,
        }
    }

    /// The devices of a microVM of its own.
    pub fn devices(&self) -> Option<Devices> {
        match self {
            Self::Own { sandbox, .. } => Some(sandbox.devices()),
            Self::Shared(_) => None,
        }
    }

    /// The socket through which ports of the guest are reached.
    pub fn vsock(&self) -> PathBuf {
        match self {
            Self::Own { sandbox, .. } => sandbox.vsock(),
            Self::Shared(guest) => guest.vsock.clone(),
        }
    }

    /// The process that serves the files of a microVM of its own.
    pub fn server(&self) -> Option<u32> {
        match self {
            Self::Own { volumes, .. } => lock(volumes).as_ref().map(Volumes::pid),
            Self::Shared(_) => None,
        }
    }

    /// Ends the microVM, or cuts the line to it: whoever waits for an answer waits no longer.
    pub fn end(&self) {
        match self {
            Self::Own { sandbox, .. } => sandbox.end(),
            Self::Shared(guest) => {
                let _ = guest.line.shutdown(Shutdown::Both);
            }
        }
    }

    /// Leaves nothing of the container: no microVM of its own, nothing in that of another one.
    pub fn leave(&self) {
        self.end();
        match self {
            Self::Own { volumes, .. } => drop(lock(volumes).take()),
            Self::Shared(guest) => {
                let Some(volumes) = lock(&guest.volumes).take() else {
                    return;
                };
                // On a line of its own, as the other one is cut. With the microVM the container is gone as well.
                if let Ok(agent) = reach_within(&guest.vsock, ANSWERING) {
                    // What it may still use stays its own. Whoever deletes it tries again.
                    let deleted = delete(&agent, &guest.id);
                    let _ = deleted.map(|()| guest.devices.give_back(&guest.holder));
                }
                drop(volumes);
            }
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.leave();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
