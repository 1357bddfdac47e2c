//! A running microVM with its agent.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::CALL_PORT;
use koya_proto::client::{self, AgentClient, ClientError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::json;

use crate::chance::Chance;
use crate::network::{Namespace, NamespaceError, VmNetwork};
use crate::parts::{Parts, PartsError};
use crate::sockets;
use crate::tail::Tail;

/// How long a guest may take until its agent answers, if it can run. A second is plenty where KVM is real; emulated, it is
/// tens.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether the VMM lives and somebody waits for it.
const LOOK: Duration = Duration::from_millis(20);
/// The guest's address. Each VMM has a socket of its own, so that all guests may have the same.
const GUEST_CID: u32 = 3;
/// Name of the vsock device's socket in the sandbox's folder.
const VSOCK: &str = "v.sock";
/// Name of the VMM's control socket in the sandbox's folder.
pub(crate) const API: &str = "api.sock";
/// A kernel that panics ends the microVM at once; only what is critical is said on the console.
const BOOT_ARGS: &str =
    "console=ttyS0 quiet loglevel=3 reboot=k panic=-1 8250.nr_uarts=1 random.trust_cpu=on";

/// A microVM does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A part is missing.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// Its folder cannot be written.
    #[error("cannot write {path:?}")]
    Folder {
        /// What in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that the VMM's configuration cannot hold.
    #[error("{0:?} is not UTF-8, which the microVM's configuration needs")]
    Path(PathBuf),
    /// The VMM cannot be started.
    #[error("cannot run {program:?}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM ended while the guest booted.
    #[error("the microVM ended while it booted: {0}")]
    Ended(String),
    /// The guest has reset or powered itself off before its agent answered.
    #[error("the guest gave up while it booted; its last words: {last:?}")]
    GaveUp {
        /// The last line on the guest's console.
        last: String,
    },
    /// The guest runs and nobody answers.
    #[error("the agent did not answer within {} s; the guest's last words: {last:?}", PATIENCE.as_secs())]
    Silent {
        /// The last line on the guest's console.
        last: String,
    },
    /// Its network namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Nobody waits for it any more.
    #[error("whoever started it has left")]
    Abandoned,
    /// The agent answers and is not the right one.
    #[error(transparent)]
    Agent(#[from] ClientError),
}

impl StartError {
    /// Whether another boot may well succeed: nothing of the user's has run, and a kernel that boots on this host now and
    /// then panics on it, as on those that emulate processors.
    pub fn is_by_chance(&self) -> bool {
        matches!(self, Self::GaveUp { .. })
    }
}

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
}

/// A microVM whose agent answers. Killed when it is dropped.
pub struct Sandbox {
    vmm: Mutex<Child>,
    console: Tail,
    folder: PathBuf,
    agent: AgentClient,
}

impl Sandbox {
    /// Boots a microVM whose files lie in `folder`, which is this sandbox's alone. `shared` is where things are kept that
    /// all sandboxes use. `spawned` is told the VMM's process as soon as there is one; the boot is given up when
    /// `abandoned` says so. To be called by a thread that lives as long as the microVM shall: the VMM dies with it.
    ///
    /// # Errors
    /// [`StartError`]; no process is left then.
    pub fn start(
        parts: &Parts,
        spec: &SandboxSpec,
        folder: &Path,
        shared: &Path,
        abandoned: impl Fn() -> bool,
        spawned: impl FnOnce(u32),
    ) -> Result<Self, StartError> {
        let initramfs = parts.initramfs(shared)?;
        let config = folder.join("vm.json");
        fs::write(&config, vm_config(parts, spec, &initramfs)?.to_string())
            .map_err(|source| StartError::Folder { path: config, source })?;
        let call = Call::listen(folder)?;
        let mut vmm = spawn(parts, folder, spec.network.as_ref())?;
        spawned(vmm.id());
        let console = vmm.stdout.take().map(Tail::of).unwrap_or_default();
        let said = vmm.stderr.take().map(Tail::of).unwrap_or_default();
        match await_agent(&mut vmm, &call, &console, &said, abandoned) {
            Ok(agent) => Ok(Self {
                vmm: Mutex::new(vmm),
                console,
                folder: folder.to_owned(),
                agent,
            }),
            Err(error) => {
                end(&mut vmm);
                Err(error)
            }
        }
    }

    /// The agent.
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// The socket through which ports of the guest are reached.
    pub fn vsock(&self) -> PathBuf {
        vsock(&self.folder)
    }

    /// Ends the VMM, whatever its guest does.
    pub fn end(&self) {
        end(&mut self.vmm.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether its VMM has ended, or does so within this time.
    pub fn has_ended(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let mut vmm = self.vmm.lock().unwrap_or_else(PoisonError::into_inner);
            if !matches!(vmm.try_wait(), Ok(None)) {
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
        self.console.last_line()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
    }
}

/// The socket through which ports of the guest of the sandbox in `folder` are reached.
pub fn vsock(folder: &Path) -> PathBuf {
    folder.join(VSOCK)
}

fn end(vmm: &mut Child) {
    let _ = vmm.kill();
    let _ = vmm.wait();
}

fn vm_config(parts: &Parts, spec: &SandboxSpec, initramfs: &Path) -> Result<serde_json::Value, StartError> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| StartError::Path(path.to_owned()))
    };
    let (kernel, initramfs) = (text(&parts.kernel)?, text(initramfs)?);
    let drives = spec.disks.iter().map(|disk| {
        Ok(json!({
            "drive_id": disk.serial,
            "path_on_host": text(&disk.path)?,
            "is_root_device": false,
            "is_read_only": disk.read_only,
        }))
    });
    let drives = drives.collect::<Result<Vec<_>, StartError>>()?;
    let folders = spec
        .share
        .iter()
        .map(|share| Ok(json!({ "folder_id": "share", "tag": share.tag, "socket": text(&share.socket)? })));
    let folders = folders.collect::<Result<Vec<_>, StartError>>()?;
    let cards = spec.network.iter().flat_map(|network| &network.cards);
    let cards: Vec<_> = cards
        .map(|card| json!({ "iface_id": card.tap, "host_dev_name": card.tap, "guest_mac": card.mac }))
        .collect();
    Ok(json!({
        "boot-source": { "kernel_image_path": kernel, "initrd_path": initramfs, "boot_args": BOOT_ARGS },
        "machine-config": { "vcpu_count": spec.vcpus, "mem_size_mib": spec.memory_mib },
        "drives": drives,
        "shared-folders": folders,
        "network-interfaces": cards,
        "vsock": { "guest_cid": GUEST_CID, "uds_path": VSOCK },
        "entropy": {},
    }))
}

fn spawn(parts: &Parts, folder: &Path, network: Option<&VmNetwork>) -> Result<Child, StartError> {
    let namespace = network.map(VmNetwork::namespace).transpose()?;
    let mut command = Command::new(&parts.vmm);
    command
        .args(["--api-sock", API, "--config-file", "vm.json"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Keys that interrupt whoever started it are not meant for it.
        .process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes three system calls and touches no memory.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A parent that died before that gives no signal any more.
            match rustix::process::getppid() == Some(parent) {
                true => namespace.as_ref().map_or(Ok(()), Namespace::enter),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
    command.spawn().map_err(|source| StartError::Spawn {
        program: parts.vmm.clone(),
        source,
    })
}

/// Where the agent calls when it listens: the socket to which the VMM joins connections to [`CALL_PORT`]. Nobody can
/// connect any more when this is dropped, before the first container runs.
struct Call {
    listener: UnixListener,
    path: PathBuf,
}

impl Call {
    /// Clears away what a VMM left that was killed, and listens.
    fn listen(folder: &Path) -> Result<Self, StartError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Folder { path, source }
        };
        for socket in [API, VSOCK] {
            let path = folder.join(socket);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(&path)(source)),
                _ => {}
            }
        }
        let path = folder.join(format!("{VSOCK}_{CALL_PORT}"));
        let listener = sockets::listen(&path).map_err(failed(&path))?;
        listener.set_nonblocking(true).map_err(failed(&path))?;
        Ok(Self { listener, path })
    }

    /// The agent's call, if it comes soon.
    fn take(&self) -> Option<UnixStream> {
        let patience = LOOK.try_into().ok();
        let _ = poll(
            &mut [PollFd::new(&self.listener, PollFlags::IN)],
            patience.as_ref(),
        );
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn await_agent(
    vmm: &mut Child,
    call: &Call,
    console: &Tail,
    said: &Tail,
    abandoned: impl Fn() -> bool,
) -> Result<AgentClient, StartError> {
    let chance = Chance::of(vmm.id());
    loop {
        // Before the look at the process, so that what it said last has been read.
        if let Some(stream) = call.take() {
            return Ok(client::connect(stream)?);
        }
        if let Ok(Some(status)) = vmm.try_wait() {
            // Its last words may still be on their way.
            thread::sleep(LOOK);
            let last = console.last_line();
            let words = said.last_line();
            return Err(
                match words.or_else(|| last.clone().filter(|_| !status.success())) {
                    Some(words) => StartError::Ended(words),
                    None if status.success() => StartError::GaveUp {
                        last: last.unwrap_or_default(),
                    },
                    None => StartError::Ended(status.to_string()),
                },
            );
        }
        if abandoned() {
            return Err(StartError::Abandoned);
        }
        if chance.was(PATIENCE) {
            let last = console.last_line().unwrap_or_default();
            return Err(StartError::Silent { last });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Boots a VMM that is this script, in a folder of its own.
    fn start(name: &str, script: &str, abandoned: impl Fn() -> bool) -> (PathBuf, StartError) {
        let folder = std::env::temp_dir().join(format!("koya-sandbox-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let vmm = folder.join("vmm");
        fs::write(&vmm, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&vmm, mode).unwrap();
        let agent = folder.join("agent");
        fs::write(&agent, "").unwrap();
        let parts = Parts {
            vmm,
            kernel: "/nowhere".into(),
            agent,
        };
        let spec = SandboxSpec {
            vcpus: 1,
            memory_mib: 128,
            disks: Vec::new(),
            share: None,
            network: None,
        };
        let started = Sandbox::start(&parts, &spec, &folder, &folder, abandoned, drop);
        let error = started.err().unwrap();
        // Nobody can call any more.
        assert!(!folder.join("v.sock_902").exists());
        (folder, error)
    }

    #[test]
    fn a_vmm_that_ends_is_an_error_with_its_words() {
        let (folder, error) = start("ends", "echo 'koya-vmm: no KVM here' >&2; exit 1", || false);
        assert!(
            matches!(&error, StartError::Ended(words) if words == "koya-vmm: no KVM here"),
            "{error}"
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_guest_that_gives_up_by_itself_may_have_another_chance() {
        let (folder, error) = start("panics", "echo 'Kernel panic - not syncing'", || false);
        assert!(
            error.is_by_chance() && error.to_string().contains("not syncing"),
            "{error}"
        );
        fs::remove_dir_all(folder).unwrap();
        for script in ["echo hm; exit 1", "kill -9 $$", "echo 'koya-vmm: no' >&2"] {
            let (folder, error) = start("fails", script, || false);
            assert!(
                matches!(error, StartError::Ended(_)) && !error.is_by_chance(),
                "{error}"
            );
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn whoever_calls_and_is_no_agent_is_an_error_and_so_is_nobody() {
        // Plays a VMM whose guest connects, says something and ends.
        let call = "exec python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"v.sock_902\"); \
                    s.sendall(b\"x\" * 4096)'";
        let (folder, error) = start("calls", call, || false);
        assert!(matches!(error, StartError::Agent(_)), "{error}");
        fs::remove_dir_all(folder).unwrap();
        let (folder, error) = start("silent", "exec sleep 1000", || true);
        assert!(matches!(error, StartError::Abandoned), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
