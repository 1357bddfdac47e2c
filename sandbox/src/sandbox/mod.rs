//! A running microVM with its agent.

pub(crate) mod config;
mod devices;
mod error;
mod lent;
#[cfg(test)]
mod tests;
mod vmm;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use koya_proto::client::{self, AgentClient};
use rustix::rand::{GetRandomFlags, getrandom};

pub use devices::{DeviceError, Devices};
pub use error::StartError;
pub use lent::Lent;
pub(crate) use vmm::{API, Vmm};

use crate::network::VmNetwork;
use crate::parts::Parts;
use crate::template::{Template, Templates};
use vmm::LOOK;

/// How long a guest may take until its agent answers, if it can run. A second is plenty where KVM is real; emulated, it is
/// tens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a guest that has booted before: it has its new devices to look at, and nothing else.
const FORK_PATIENCE: Duration = Duration::from_secs(20);
/// Random bytes that make a fork somebody else: twice what the kernel's generator has for a key.
const ENTROPY: usize = 64;

/// A disk of the guest. The agent finds it by its serial.
#[derive(Debug, Clone)]
pub struct Disk {
    /// At most 20 characters.
    pub serial: String,
    /// The file.
    pub path: PathBuf,
    /// Enforced by the VMM, which opens the file so.
    pub read_only: bool,
}

/// A folder that the guest mounts, served by a program that listens already.
#[derive(Debug, Clone)]
pub struct Share {
    /// By what the guest knows it: 1 to 36 bytes.
    pub tag: String,
    /// The program's socket.
    pub socket: PathBuf,
}

/// How large a microVM is, and what it holds.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// 1 to 32.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// In the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// What the guest sees of the host's folders, if it does.
    pub share: Option<Share>,
    /// Its network devices and where they are, if it has any.
    pub network: Option<VmNetwork>,
    /// Whether it may go on from a template instead of booting.
    pub templates: bool,
}

/// What whoever starts a microVM is told meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A template is being made, which takes a boot of its own: that of this VMM's process.
    TemplateBegun(u32),
    /// It is made.
    TemplateMade,
    /// There is no template, for this reason, and is not going to be one for a while.
    NoTemplate(String),
    /// The VMM runs, as this process.
    Spawned(u32),
    /// The guest goes on from a template.
    Forked,
}

/// A microVM whose agent answers. Killed when it is dropped.
pub struct Sandbox {
    vmm: Mutex<Vmm>,
    folder: PathBuf,
    agent: AgentClient,
    /// Where it is to be kept what forks of its template write first, if this one is to be asked.
    unknown: Mutex<Option<PathBuf>>,
}

impl Sandbox {
    /// Boots a microVM whose files lie in `folder`, which is this sandbox's alone, or forks it from a template. `shared` is
    /// where things are kept that all sandboxes use. `tell` is told how it goes, of the VMM's process as soon as there is
    /// one; the boot is given up when `abandoned` says so. To be called by a thread that lives as long as the microVM shall:
    /// the VMM dies with it.
    ///
    /// # Errors
    /// [`StartError`]; no process is left then.
    pub fn start(
        parts: &Parts,
        spec: &SandboxSpec,
        folder: &Path,
        shared: &Path,
        abandoned: impl Fn() -> bool,
        mut tell: impl FnMut(Progress),
    ) -> Result<Self, StartError> {
        if let Some(templates) = Templates::of(parts, spec, shared)
            && let Some(template) = templates.choose(&abandoned, &mut tell)?
        {
            let forked = Self::fork(parts, spec, folder, &template, &abandoned, tell);
            return forked.map_err(|error| match error {
                error if error.is_of_the_template() => template.reject(error),
                // It lacks something, or was killed: the next to try says which.
                StartError::Ended(_) => template.blame(error),
                error => error,
            });
        }
        let config = config::booted(parts, spec, &parts.initramfs(shared)?)?;
        let (mut vmm, call) = Vmm::start(&parts.vmm, folder, &config, spec.network.as_ref())?;
        tell(Progress::Spawned(vmm.pid()));
        let stream = vmm.await_call(&call, PATIENCE, &abandoned)?;
        Self::of(vmm, folder, stream)
    }

    /// Lets a template go on as this microVM. It is somebody else before anything of the user's runs.
    fn fork(
        parts: &Parts,
        spec: &SandboxSpec,
        folder: &Path,
        template: &Template,
        abandoned: &impl Fn() -> bool,
        mut tell: impl FnMut(Progress),
    ) -> Result<Self, StartError> {
        let config = config::forked(spec, template)?;
        let (mut vmm, call) = Vmm::start(&parts.vmm, folder, &config, spec.network.as_ref())?;
        tell(Progress::Spawned(vmm.pid()));
        let stream = vmm.await_call(&call, FORK_PATIENCE, abandoned)?;
        tell(Progress::Forked);
        let sandbox = Self::of(vmm, folder, stream)?;
        // With a shared folder its memory is a copy, of which nobody knows what has been written.
        if spec.share.is_none() && template.working_set().is_none() {
            *lock(&sandbox.unknown) = Some(template.working_set_path());
        }
        sandbox.agent.reseed(&entropy()?)?;
        sandbox.agent.set_clock(SystemTime::now())?;
        Ok(sandbox)
    }

    /// The one whose agent has called.
    fn of(vmm: Vmm, folder: &Path, call: UnixStream) -> Result<Self, StartError> {
        Ok(Self {
            agent: client::connect(call)?,
            vmm: Mutex::new(vmm),
            folder: folder.to_owned(),
            unknown: Mutex::new(None),
        })
    }

    /// The agent.
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Its devices, which may get more.
    pub fn devices(&self) -> Devices {
        Devices::of(&self.folder)
    }

    /// Notes what the guest has written so far for the next forks of its template, once and if that is not known yet. To be
    /// called when the first container has been made, and nothing of the user's runs.
    pub fn note_working_set(&self) {
        let unknown = lock(&self.unknown).take();
        if let Some(path) = unknown {
            // If it cannot be had, another one tries.
            self.devices().note_working_set(&path);
        }
    }

    /// The socket through which ports of the guest are reached.
    pub fn vsock(&self) -> PathBuf {
        vsock(&self.folder)
    }

    /// Ends the VMM, whatever its guest does.
    pub fn end(&self) {
        lock(&self.vmm).end();
    }

    /// Whether its VMM has ended, or does so within this time.
    pub fn has_ended(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let mut vmm = lock(&self.vmm);
            if vmm.has_ended() {
                return true;
            }
            drop(vmm);
            if begun.elapsed() >= patience {
                return false;
            }
            thread::sleep(LOOK);
        }
    }

    /// Why it does not run any more, as far as the guest's console tells.
    pub fn last_words(&self) -> Option<String> {
        lock(&self.vmm).last_words()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket through which ports of the guest of the sandbox in `folder` are reached.
pub fn vsock(folder: &Path) -> PathBuf {
    folder.join(config::VSOCK)
}

/// Random bytes of the host.
fn entropy() -> Result<[u8; ENTROPY], StartError> {
    let mut bytes = [0; ENTROPY];
    // Up to 256 bytes come at once, and are not interrupted (getrandom(2)).
    match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
        Ok(ENTROPY) => Ok(bytes),
        Ok(_) => Err(StartError::Entropy(std::io::ErrorKind::UnexpectedEof.into())),
        Err(errno) => Err(StartError::Entropy(errno.into())),
    }
}
