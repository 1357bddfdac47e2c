//! The Task service: what containerd asks, done by runs of `koya-runtime`.
//!
//! ```text
//!  Create ─► created ── Start ─► running ◄── Pause, Resume ──► paused
//!              │ Delete             │ ends
//!              ▼                    ▼
//!            (gone) ◄── Delete ── stopped
//! ```

mod container;
mod create;
mod exec;
mod metrics;
mod process;
mod service;
#[cfg(test)]
pub mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use container::Container;
pub use container::rootfs;
use koya_sandbox::resident::forget_start;
use process::{Process, Status};

use crate::error::TaskError;
use crate::generated::{events, task};
use crate::publish::Publisher;
use crate::reaper::Exit;
use crate::runtime::{Runtime, silent};
use crate::seat::Seat;
use crate::{log, mounts, time};

/// Containers of one shim: a pod has a few.
const MAX_CONTAINERS: usize = 256;
/// Calls that wait for ends, at a time; each has a thread.
const MAX_WAITS: usize = 4096;
/// How long a process that stands for a container may take to end when that is gone.
const LAST_STEPS: Duration = Duration::from_secs(10);
/// How long the last of a terminal's output may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a container that was killed may wait for those who read its output.
const READERS: Duration = Duration::from_secs(3);

/// All that a shim has.
pub struct Tasks {
    runtime: Arc<Runtime>,
    publisher: Publisher,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    waits: AtomicUsize,
    over: (Mutex<bool>, Condvar),
    seat: Seat,
}

impl Tasks {
    /// Without any container yet.
    pub fn new(runtime: Runtime, publisher: Publisher) -> Self {
        Self {
            runtime: Arc::new(runtime),
            publisher,
            containers: Mutex::default(),
            waits: AtomicUsize::new(0),
            over: (Mutex::new(false), Condvar::new()),
            seat: Seat::here(),
        }
    }

    /// Waits until containerd needs this shim no more.
    pub fn await_end(&self) {
        let (over, changed) = &self.over;
        let over = over.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(over, |over| !*over));
    }

    /// Ends this shim if it has no container.
    pub fn shut_down(&self) {
        // Held, so that none is added meanwhile.
        let containers = self.containers();
        if containers.is_empty() {
            *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.over.1.notify_all();
        }
    }

    /// Whether it is about to end. To be asked with the containers held.
    fn is_over(&self) -> bool {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        let found = self.containers().get(id).map(Arc::clone);
        found.ok_or_else(|| TaskError::NoContainer(id.to_owned()))
    }

    fn process(&self, id: &str, exec: &str) -> Result<Arc<Process>, TaskError> {
        self.container(id)?.process(exec)
    }

    /// Runs the program of a created container; its pid.
    fn start(&self, id: &str) -> Result<u32, TaskError> {
        let container = self.container(id)?;
        let first = &container.first;
        first.go(Status::Created, Status::Starting, "created", "started")?;
        let pid = first.seen().pid;
        match self.runtime.run(&container.bundle, &["start", id], silent()) {
            Ok(()) => {
                let event = events::TaskStart {
                    container_id: id.to_owned(),
                    pid,
                    ..Default::default()
                };
                first.started(Status::Running, || {
                    self.publisher.publish("/tasks/start", "TaskStart", &event);
                });
                // Until somebody wants something again, it waits.
                forget_start();
                Ok(pid)
            }
            Err(error) => {
                first.started(Status::Created, || ());
                Err(error)
            }
        }
    }

    /// Sends a signal.
    fn kill(&self, request: &task::KillRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        if !request.exec_id.is_empty() {
            return container.process(&request.exec_id)?.signal(request.signal);
        }
        let first = &container.first;
        match first.seen().status {
            Status::Creating => return Err(first.refusal(Status::Creating, "created or running", "killed")),
            Status::Stopped => return Err(TaskError::Finished),
            _ => {}
        }
        let signal = request.signal.to_string();
        let mut words = vec!["kill"];
        if request.all {
            words.push("--all");
        }
        words.extend([request.id.as_str(), &signal]);
        if let Err(error) = self.runtime.run(&container.bundle, &words, silent()) {
            // It may have ended while it was asked; of what has, the end is about to be heard.
            let gone = matches!(
                error.code(),
                ttrpc::Code::FAILED_PRECONDITION | ttrpc::Code::NOT_FOUND | ttrpc::Code::UNAVAILABLE
            );
            let patience = if gone { LAST_STEPS } else { Duration::ZERO };
            return Err(match first.wait_within(patience) {
                Some(_) => TaskError::Finished,
                None => error,
            });
        }
        if request.signal == libc::SIGKILL.cast_unsigned() {
            let killed = Arc::clone(first);
            let hurry = move || {
                if killed.wait_within(READERS).is_none() {
                    killed.with_streams(crate::stdio::Held::give_up_readers);
                }
            };
            // Without a thread they are given up at once.
            if std::thread::Builder::new()
                .name("hurry".to_owned())
                .spawn(hurry)
                .is_err()
            {
                first.with_streams(crate::stdio::Held::give_up_readers);
            }
        }
        Ok(())
    }

    /// Freezes or thaws a container.
    fn freeze(&self, id: &str, freeze: bool) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let first = &container.first;
        let (word, from, to) = match freeze {
            true => ("pause", Status::Running, Status::Paused),
            false => ("resume", Status::Paused, Status::Running),
        };
        let (wanted, verb) = match freeze {
            true => ("running", "paused"),
            false => ("paused", "resumed"),
        };
        let is = first.seen().status;
        if is != from {
            return Err(first.refusal(is, wanted, verb));
        }
        self.runtime.run(&container.bundle, &[word, id], silent())?;
        // It may have ended since.
        if first.go(from, to, wanted, verb).is_ok() {
            self.tell_frozen(id, freeze);
        }
        Ok(())
    }

    fn tell_frozen(&self, id: &str, frozen: bool) {
        let container_id = id.to_owned();
        match frozen {
            true => {
                let event = events::TaskPaused {
                    container_id,
                    ..Default::default()
                };
                self.publisher.publish("/tasks/paused", "TaskPaused", &event);
            }
            false => {
                let event = events::TaskResumed {
                    container_id,
                    ..Default::default()
                };
                self.publisher.publish("/tasks/resumed", "TaskResumed", &event);
            }
        }
    }

    /// Removes a container that does not run, or a process of one; its pid, and how it ended.
    fn delete(&self, id: &str, exec: &str) -> Result<(u32, Exit), TaskError> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        let seen = process.settle()?;
        if !exec.is_empty() {
            container.remove(exec)?;
            return Ok((seen.pid, Self::farewell(&process)));
        }
        self.seat.leave(id);
        self.runtime
            .run(&container.bundle, &["delete", "--force", id], silent())?;
        process.wait_within(LAST_STEPS);
        for other in container.all_others() {
            Self::farewell(&other);
        }
        let exit = Self::farewell(&process);
        // Of two who delete it at once, one has done so, and the id may be another's by now.
        let is_this = |known: &Arc<Container>| Arc::ptr_eq(known, &container);
        if !self.containers().get(id).is_some_and(is_this) {
            return Ok((seen.pid, exit));
        }
        mounts::unmount_all(&container.rootfs());
        if self.containers().remove(id).is_some() {
            let event = events::TaskDelete {
                container_id: id.to_owned(),
                pid: seen.pid,
                exit_status: exit.status,
                exited_at: Some(time::of_exit(exit.at)).into(),
                ..Default::default()
            };
            self.publisher.publish("/tasks/delete", "TaskDelete", &event);
        }
        Ok((seen.pid, exit))
    }

    /// The last of a process.
    fn farewell(process: &Process) -> Exit {
        process.take_streams().finish(LAST_WORDS);
        process.forgotten();
        process.wait()
    }

    /// Waits for the end of a process.
    fn wait(&self, id: &str, exec: &str) -> Result<Exit, TaskError> {
        let process = self.process(id, exec)?;
        if self.waits.fetch_add(1, Ordering::Relaxed) >= MAX_WAITS {
            self.waits.fetch_sub(1, Ordering::Relaxed);
            return Err(TaskError::Full(MAX_WAITS, "calls that wait"));
        }
        let exit = process.wait();
        self.waits.fetch_sub(1, Ordering::Relaxed);
        Ok(exit)
    }

    /// Sees to it that the end of a process is heard of.
    fn watch(&self, process: &Arc<Process>, pid: u32, since: crate::reaper::Mark) {
        let watched = Arc::clone(process);
        let runtime = Arc::clone(&self.runtime);
        self.runtime.reaper().watch(pid, since, move |exit| {
            let is_out = watched.exec.is_empty() && runtime.was_out_of_memory(&watched.id);
            watched.ended(exit, is_out);
        });
    }

    /// Removes what the runtime has of a container that did not come to be.
    fn clear(&self, container: &Container) {
        let words = ["delete", "--force", container.first.id.as_str()];
        if let Err(error) = self.runtime.run(&container.bundle, &words, silent()) {
            log::tell(&error.one_line());
        }
    }
}
