//! Create: mounts the root, opens the streams, and has the runtime boot the microVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::container::Container;
use super::process::Process;
use super::{MAX_CONTAINERS, Tasks};
use crate::args::is_name;
use crate::bundle::Bundle;
use crate::error::TaskError;
use crate::generated::{events, task};
use crate::mounts;
use crate::runtime::silent;
use crate::stdio::{self, Console, Wanted, Writer};

impl Tasks {
    /// Creates a container; its pid.
    pub(super) fn create(&self, request: &task::CreateTaskRequest) -> Result<u32, TaskError> {
        let container = self.reserve(request)?;
        let made =
            mounts::mount_all(&request.rootfs, &container.rootfs()).and_then(|()| self.boot(&container));
        match made {
            Ok(pid) => {
                self.seat.join(&request.id, pid);
                self.tell_created(request, pid);
                Ok(pid)
            }
            Err(error) => {
                if !request.rootfs.is_empty() {
                    mounts::unmount_all(&container.rootfs());
                }
                self.containers().remove(&request.id);
                container.first.forgotten();
                Err(error)
            }
        }
    }

    /// Takes the id.
    fn reserve(&self, request: &task::CreateTaskRequest) -> Result<Arc<Container>, TaskError> {
        let id = &request.id;
        if !is_name(id) {
            return Err(TaskError::Id(id.clone()));
        }
        if !(request.checkpoint.is_empty() && request.parent_checkpoint.is_empty()) {
            return Err(TaskError::Unsupported(
                "no container is restored from a checkpoint",
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(TaskError::Missing("absolute path of a bundle"));
        }
        let wanted = Wanted {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let first = Process::new(id, "", wanted, self.publisher.clone());
        let mut containers = self.containers();
        if self.is_over() {
            return Err(TaskError::Over);
        }
        if containers.contains_key(id) {
            return Err(TaskError::Exists(id.clone()));
        }
        if containers.len() >= MAX_CONTAINERS {
            return Err(TaskError::Full(MAX_CONTAINERS, "containers"));
        }
        let container = Arc::new(Container::new(bundle, first));
        containers.insert(id.clone(), Arc::clone(&container));
        Ok(container)
    }

    /// Has the runtime create it; its pid.
    fn boot(&self, container: &Container) -> Result<u32, TaskError> {
        let first = &container.first;
        let bundle = &container.bundle;
        let pid_file = bundle.join("koya.pid");
        let mut words: Vec<&Path> = Vec::new();
        if Bundle::read(bundle).is_ok_and(|bundle| bundle.names_slices()) {
            words.push("--systemd-cgroup".as_ref());
        }
        words.extend(["create".as_ref(), "--bundle".as_ref(), bundle.as_path()]);
        words.extend(["--pid-file".as_ref(), pid_file.as_path()]);
        let begin = || self.begin(&words, first, bundle, &pid_file, "koya.tty");
        match begin() {
            Ok(pid) => Ok(pid),
            Err(error) => {
                // Unless there was another one of this name before.
                if error.code() != ttrpc::Code::ALREADY_EXISTS {
                    self.clear(container);
                }
                Err(error)
            }
        }
    }

    /// Runs a command of the runtime that leaves a process behind; its pid. The container's id ends the command line.
    pub(super) fn begin(
        &self,
        words: &[&Path],
        process: &Arc<Process>,
        bundle: &Path,
        pid_file: &Path,
        socket: &str,
    ) -> Result<u32, TaskError> {
        let mut words = words.to_vec();
        let console = match process.wanted.terminal {
            true => Some(Console::listen(&bundle.join(socket))?),
            false => None,
        };
        let (streams, held) = match &console {
            Some(console) => {
                words.extend(["--console-socket".as_ref(), console.path()]);
                (silent(), None)
            }
            None => {
                let (streams, held) = stdio::open(&process.wanted, &self.writer(process))?;
                (streams, Some(held))
            }
        };
        words.push(process.id.as_ref());
        let _ = fs::remove_file(pid_file);
        let (pid, mark) = self.runtime.begin(bundle, &words, streams, pid_file)?;
        let held = match (held, &console) {
            (Some(held), _) => Ok(held),
            (None, Some(console)) => stdio::attach(&process.wanted, console, &self.writer(process)),
            (None, None) => Ok(stdio::Held::default()),
        };
        // Whoever is there is waited for, even if nobody can see what it says.
        let (held, failed) = match held {
            Ok(held) => (held, None),
            Err(error) => (stdio::Held::default(), Some(error)),
        };
        process.begun(pid, held);
        match failed {
            None => {
                self.watch(process, pid, mark);
                Ok(pid)
            }
            Some(error) => {
                let _ = process.signal(libc::SIGKILL.cast_unsigned());
                Err(error)
            }
        }
    }

    /// Whose output it is, for a program that takes it.
    fn writer<'a>(&'a self, process: &'a Process) -> Writer<'a> {
        Writer {
            id: match process.exec.as_str() {
                "" => &process.id,
                exec => exec,
            },
            namespace: self.publisher.namespace(),
            reaper: self.runtime.reaper(),
        }
    }

    fn tell_created(&self, request: &task::CreateTaskRequest, pid: u32) {
        let mounts = request.rootfs.iter().map(|mount| events::RootMount {
            type_: mount.type_.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
            ..Default::default()
        });
        let io = events::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = events::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: mounts.collect(),
            io: Some(io).into(),
            pid,
            ..Default::default()
        };
        self.publisher.publish("/tasks/create", "TaskCreate", &event);
    }
}
