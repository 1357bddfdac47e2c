//! The process that serves the volumes of one microVM.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use koya_proto::SHARES;
use rustix::process::{Resource, getegid, geteuid, getrlimit};

use super::namespace::{Bind, Plan, Step};
use super::{MAX_VOLUMES, Volume, VolumeError};
use crate::container::{IdMap, Mount};
use crate::rights;
use crate::sandbox::Share;
use crate::sockets;
use crate::tail::Tail;

/// By what the guest knows the folder that holds the volumes.
pub const TAG: &str = "volumes";
/// The program's socket in the sandbox's folder, from which the VMM runs.
const SOCKET: &str = "fs.sock";
/// The folder on which the volumes are put together, in the sandbox's folder; always empty for everybody else.
const HOLDER: &str = "volumes";
/// Files that virtiofsd may hold open, one for each that the guest's kernel remembers: virtiofsd's own limit.
const MAX_FILES: u64 = 1_000_000;

/// A bind mount for a container: plain, for its `config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// In the guest.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Whether the host forbids to write. The container's own mount may say so too.
    pub read_only: bool,
}

impl VolumeMount {
    /// As the container's configuration has it.
    pub fn to_mount(&self) -> Mount {
        let access = if self.read_only { "ro" } else { "rw" };
        Mount {
            destination: self.target.clone(),
            kind: "bind".to_owned(),
            source: self.source.clone(),
            options: ["rbind", access].map(str::to_owned).to_vec(),
        }
    }
}

/// The volumes of a microVM, served until this is dropped.
pub struct Volumes {
    process: Child,
    said: Tail,
    socket: PathBuf,
    holder: PathBuf,
    mounts: Vec<VolumeMount>,
}

impl Volumes {
    /// Serves `volumes` to the microVM whose files are in `folder`, by the program `virtiofsd`
    /// (see [`Parts::find_virtiofsd`](crate::parts::Parts::find_virtiofsd)). `ids` are those of the container that is to use
    /// them, if its ids are shifted: the files' owners are then shifted along. It listens when this returns. One process
    /// serves one VMM, once. It dies with the thread that called this.
    ///
    /// # Errors
    /// [`VolumeError`]; no process is left then.
    pub fn start(
        folder: &Path,
        volumes: &[Volume],
        ids: Option<IdMap>,
        virtiofsd: &Path,
    ) -> Result<Self, VolumeError> {
        if volumes.len() > MAX_VOLUMES {
            return Err(VolumeError::TooMany(volumes.len()));
        }
        let holder = folder.join(HOLDER);
        let (mut binds, mut mounts) = (Vec::new(), Vec::<VolumeMount>::new());
        for (number, volume) in volumes.iter().enumerate() {
            if mounts.iter().any(|mount| mount.target == volume.target) {
                return Err(VolumeError::Duplicate(volume.target.clone()));
            }
            binds.push(bind(volume, &holder.join(number.to_string()))?);
            mounts.push(VolumeMount {
                source: format!("{SHARES}/{TAG}/{number}"),
                target: volume.target.clone(),
                read_only: volume.read_only,
            });
        }
        let socket = folder.join(SOCKET);
        let unwritable = |path: &Path| {
            let path = path.to_owned();
            move |source| VolumeError::Folder { path, source }
        };
        make_folder(&holder, 0o700).map_err(unwritable(&holder))?;
        let listener = sockets::listen(&socket).map_err(unwritable(&socket))?;
        let files = Files { socket, holder };
        let caller = (!geteuid().is_root()).then(|| (geteuid().as_raw(), getegid().as_raw()));
        let spawned = spawn(virtiofsd, &files, caller, ids, binds, listener.into());
        let (process, said) = spawned.map_err(|(step, source)| {
            remove(&files.socket, &files.holder);
            explain(step, source, virtiofsd, volumes)
        })?;
        let Files { socket, holder } = files;
        Ok(Self {
            process,
            said,
            socket,
            holder,
            mounts,
        })
    }

    /// What the microVM's configuration says about it. The VMM runs in the sandbox's folder.
    pub fn share(&self) -> Share {
        Share {
            tag: TAG.to_owned(),
            socket: SOCKET.into(),
        }
    }

    /// What to mount in containers, in the order of the volumes.
    pub fn mounts(&self) -> &[VolumeMount] {
        &self.mounts
    }

    /// The process, for the microVM's records.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it fails to serve. If a microVM did not start, this may say why; that virtiofsd ends once its VMM has gone is no
    /// reason.
    ///
    /// # Errors
    /// [`VolumeError::Ended`], with the last words of virtiofsd.
    pub fn check(&mut self) -> Result<(), VolumeError> {
        match self.process.try_wait() {
            Ok(None) | Err(_) => Ok(()),
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => {
                // Its last words may still be on their way.
                thread::sleep(Duration::from_millis(20));
                let words = self.said.last_line();
                Err(VolumeError::Ended(words.unwrap_or_else(|| status.to_string())))
            }
        }
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        remove(&self.socket, &self.holder);
    }
}

/// Files that have to go if nobody serves.
struct Files {
    socket: PathBuf,
    holder: PathBuf,
}

fn remove(socket: &Path, holder: &Path) {
    // What cannot be removed goes with the sandbox's folder.
    let _ = fs::remove_file(socket);
    let _ = fs::remove_dir(holder);
}

fn bind(volume: &Volume, place: &Path) -> Result<Bind, VolumeError> {
    let (source, is_folder) = source_of(volume)?;
    Bind::new(volume, &source, place, is_folder).map_err(|error| unusable(volume, error))
}

/// What is to be served, and whether it is a folder. A named volume's folder is made.
pub(super) fn source_of(volume: &Volume) -> Result<(PathBuf, bool), VolumeError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => VolumeError::Missing {
            source_path: volume.source.clone(),
            target: volume.target.clone(),
        },
        _ => unusable(volume, source),
    };
    if volume.named {
        make_folder(&volume.source, 0o755).map_err(failed)?;
    }
    // Where links lead now is what is shared, and what the words of an error should name.
    let source = fs::canonicalize(&volume.source).map_err(failed)?;
    let kind = fs::metadata(&source).map_err(failed)?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a folder");
        return Err(unusable(volume, error));
    }
    Ok((source, kind.is_dir()))
}

pub(super) fn unusable(volume: &Volume, source: io::Error) -> VolumeError {
    VolumeError::Source {
        source_path: volume.source.clone(),
        target: volume.target.clone(),
        source,
    }
}

/// Makes a folder of this mode, and those above it for the owner alone.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(above) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Why there is no process, and what it was at if it ever was one.
type NotSpawned = (Option<Step>, io::Error);

fn spawn(
    program: &Path,
    files: &Files,
    caller: Option<(u32, u32)>,
    ids: Option<IdMap>,
    binds: Vec<Bind>,
    listener: OwnedFd,
) -> Result<(Child, Tail), NotSpawned> {
    let unprepared = |source| (None, source);
    let (mut failure, told) = io::pipe().map_err(unprepared)?;
    let plan = Plan::new(caller, &files.holder, binds, listener, told).map_err(unprepared)?;
    let mut command = Command::new(program);
    command
        .args(arguments(caller.is_some(), ids))
        .arg(format!("--fd={}", plan.listener()))
        .arg("--shared-dir")
        .arg(&files.holder)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Keys that interrupt whoever started it are not meant for it.
        .process_group(0);
    // SAFETY: between fork and exec the closure makes system calls on what was prepared before, and nothing else.
    unsafe {
        command.pre_exec(move || plan.carry_out());
    }
    let spawned = command.spawn();
    // With it goes this process's end of the pipe, and of the socket.
    drop(command);
    match spawned {
        Ok(mut process) => {
            let said = process.stderr.take().map(Tail::of).unwrap_or_default();
            Ok((process, said))
        }
        Err(source) => {
            let mut bytes = [u8::MAX; 4];
            let step = failure.read_exact(&mut bytes).ok().and(Step::from_bytes(bytes));
            Err((step, source))
        }
    }
}

/// What virtiofsd is told, apart from where and what.
fn arguments(is_rootless: bool, ids: Option<IdMap>) -> Vec<String> {
    let mut arguments = [
        "--sandbox=namespace",
        // Each volume is a file system of its own for the guest, so that inode numbers do not collide.
        "--announce-submounts",
        // Handles would need a capability that opens every file of a file system.
        "--inode-file-handles=never",
        "--cache=auto",
        // A guest has no business with the host's devices.
        "--modcaps=-mknod",
        "--log-level=error",
    ]
    .map(str::to_owned)
    .to_vec();
    for whose in ["uid", "gid"] {
        let translations = match (is_rootless, ids) {
            (false, None) => Vec::new(),
            (false, Some(IdMap { first, size })) => vec![format!("map:{first}:0:{size}")],
            // There is one user and one group to create files as.
            (true, None) => vec![format!("squash-guest:0:0:{}", u32::MAX)],
            (true, Some(IdMap { first, .. })) => {
                vec![
                    format!("squash-guest:0:0:{}", u32::MAX),
                    format!("host:0:{first}:1"),
                ]
            }
        };
        let translate = |translation| format!("--translate-{whose}={translation}");
        arguments.extend(translations.into_iter().map(translate));
    }
    if !rights::is_root_of_host() {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_FILES);
        arguments.push(format!("--rlimit-nofile={}", limit.min(MAX_FILES)));
    }
    arguments
}

fn explain(step: Option<Step>, source: io::Error, program: &Path, volumes: &[Volume]) -> VolumeError {
    let namespace = |what, hint| VolumeError::Namespace {
        what,
        hint,
        source: copy(&source),
    };
    match step {
        Some(Step::User) => namespace(
            "a user namespace of its own",
            "; does this host allow unprivileged user namespaces (user.max_user_namespaces, \
             kernel.apparmor_restrict_unprivileged_userns)?",
        ),
        Some(Step::Mounts) => namespace("a mount namespace of its own", "; it takes CAP_SYS_ADMIN"),
        Some(Step::Holder) => namespace("a folder of its own to put volumes in", ""),
        Some(Step::Volume(number)) => match volumes.get(usize::from(number)) {
            Some(volume) => unusable(volume, source),
            None => namespace("its volumes", ""),
        },
        Some(Step::Process) | None => VolumeError::Spawn {
            program: program.to_owned(),
            source,
        },
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}
