//! Other processes of a container.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Tasks;
use super::process::{Process, Status};
use crate::error::TaskError;
use crate::generated::{events, task};
use crate::runtime::silent;
use crate::stdio::Wanted;

/// Longest process, and longest list of limits; the guest's agent takes no longer one.
const MAX_JSON: usize = 1 << 20;

impl Tasks {
    /// Notes a process that is to be.
    pub(super) fn add(&self, request: &task::ExecProcessRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let spec = request.spec.as_ref().ok_or(TaskError::Missing("process"))?;
        if spec.value.len() > MAX_JSON {
            return Err(TaskError::Missing("process of at most 1 MiB"));
        }
        let wanted = Wanted {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let (id, exec) = (&request.id, &request.exec_id);
        let process = Process::new(id, exec, wanted, self.publisher.clone());
        container.add(process, spec.value.clone())?;
        let event = events::TaskExecAdded {
            container_id: id.clone(),
            exec_id: exec.clone(),
            ..Default::default()
        };
        self.publisher
            .publish("/tasks/exec-added", "TaskExecAdded", &event);
        Ok(())
    }

    /// Runs it; its pid.
    pub(super) fn start_exec(&self, id: &str, exec: &str) -> Result<u32, TaskError> {
        let container = self.container(id)?;
        let added = container.exec(exec)?;
        let process = &added.process;
        let first = container.first.seen().status;
        if first != Status::Running {
            return Err(container.first.refusal(first, "running", "exec'd into"));
        }
        process.go(Status::Created, Status::Starting, "created", "started")?;
        let file = |end: &str| container.bundle.join(format!("koya.{exec}.{end}"));
        let (spec, pid_file) = (file("json"), file("pid"));
        let words: [&Path; 6] = [
            "exec".as_ref(),
            "--detach".as_ref(),
            "--process".as_ref(),
            &spec,
            "--pid-file".as_ref(),
            &pid_file,
        ];
        let begun = write(&spec, &added.spec).and_then(|()| {
            let mut words = words.to_vec();
            if process.wanted.terminal {
                words.push("--tty".as_ref());
            }
            self.begin(
                &words,
                process,
                &container.bundle,
                &pid_file,
                &format!("koya.{exec}.tty"),
            )
        });
        let _ = fs::remove_file(&spec);
        match begun {
            Ok(pid) => {
                let event = events::TaskExecStarted {
                    container_id: id.to_owned(),
                    exec_id: exec.to_owned(),
                    pid,
                    ..Default::default()
                };
                process.started(Status::Running, || {
                    self.publisher
                        .publish("/tasks/exec-started", "TaskExecStarted", &event);
                });
                Ok(pid)
            }
            Err(error) => {
                // It never will, and can only be deleted.
                process.started(Status::Starting, || ());
                process.forgotten();
                Err(error)
            }
        }
    }

    /// Changes limits.
    pub(super) fn update(&self, request: &task::UpdateTaskRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let resources = request
            .resources
            .as_ref()
            .ok_or(TaskError::Missing("resources"))?;
        if resources.value.len() > MAX_JSON {
            return Err(TaskError::Missing("resources of at most 1 MiB"));
        }
        // Another one may be under way.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = container.bundle.join(format!("koya.resources.{count}.json"));
        write(&file, &resources.value)?;
        let words: [&Path; 4] = [
            "update".as_ref(),
            "--resources".as_ref(),
            &file,
            request.id.as_ref(),
        ];
        let updated = self.runtime.run(&container.bundle, &words, silent());
        let _ = fs::remove_file(&file);
        updated
    }
}

/// Writes a file that only its owner can read: there may be secrets in a process's environment.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TaskError> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(TaskError::file("write", path))
}
