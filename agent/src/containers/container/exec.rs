//! Processes that are added to a container.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use koya_proto::v1::{ExecRequest, Status};

use super::{Container, connect};
use crate::containers::config::parse_process;
use crate::containers::{Ground, Process};
use crate::error::{Result, exists, limit, runtime};
use crate::helper::{Call, Done, Identity, Request};
use crate::streams::Stdio;
use crate::sys::{Deadline, lock};

/// Processes of Exec that a container may have, ended ones among them: their
/// exit codes are kept to be asked for, the oldest given up first.
const MAX_EXECS: usize = 1024;

/// One of them.
pub(super) struct Exec {
    /// In the order in which they came.
    number: u64,
    /// None: being started.
    pub(super) process: Option<Arc<Process>>,
}

impl Container {
    /// Runs another process.
    pub fn exec(&self, ground: &Ground, request: &ExecRequest, deadline: Deadline) -> Result<u32> {
        let (process, terminal) = parse_process(&request.process)?;
        self.want(*lock(&self.phase), Status::STATUS_RUNNING, "exec'd into")?;
        let (stdio, ends) = Stdio::prepare(&ground.broker, request.stdio.get_or_default(), terminal)?;
        self.reserve(&request.exec_id)?;
        let job = Request::Exec {
            init: self.init.pid(),
            cgroup: self.cgroup.path().to_path_buf(),
            process,
            identity: Identity {
                user: request.user.clone(),
                filter: self.filter.clone(),
            },
            size: stdio.size(),
        };
        let oom_kills = self.cgroup.oom_kills();
        let claiming = ground.children.claiming();
        let call = Call {
            children: &ground.children,
            request: &job,
            ends: Some(ends),
            deadline,
        };
        let started = call.run().and_then(|Done { pid, descriptor }| {
            let child = claiming.claim(pid).map_err(runtime("watch the process"))?;
            connect(child, stdio, descriptor, oom_kills)
        });
        let mut execs = lock(&self.execs);
        match started {
            Ok(process) => {
                let pid = process.pid();
                if let Some(exec) = execs.get_mut(&request.exec_id) {
                    exec.process = Some(process);
                }
                Ok(pid)
            }
            Err(error) => {
                execs.remove(&request.exec_id);
                Err(error)
            }
        }
    }

    /// Takes a name for a process, giving up the oldest ended one if need be.
    fn reserve(&self, name: &str) -> Result<()> {
        let ended = |exec: &Exec| {
            exec.process
                .as_ref()
                .is_some_and(|process| process.ended().is_some())
        };
        let mut execs = lock(&self.execs);
        if execs.get(name).is_some_and(|exec| !ended(exec)) {
            return Err(exists(format!(
                "a process '{name}' runs in container '{}' already",
                self.id
            )));
        }
        if execs.len() >= MAX_EXECS {
            let oldest = execs
                .iter()
                .filter(|(_, exec)| ended(exec))
                .min_by_key(|(_, exec)| exec.number);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return Err(limit(format!(
                    "{MAX_EXECS} processes run in container '{}', which is the most",
                    self.id
                )));
            };
            execs.remove(&oldest);
        }
        let number = self.next_exec.fetch_add(1, Ordering::Relaxed);
        execs.insert(
            name.to_owned(),
            Exec {
                number,
                process: None,
            },
        );
        Ok(())
    }
}
