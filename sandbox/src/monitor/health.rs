//! Health checks: a command that is run in a container from time to time, and what it finds.
//!
//! One thread for each container that has one; it ends with the container.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::client::ProcessId;
use koya_proto::error::ErrorKind;
use koya_proto::v1;

use super::output::{complain, lock};
use super::room::Room;
use super::server::Monitor;
use crate::state::{Container, Health, HealthCheck, Probe, Status, new_id, now};
use crate::stdio::{self, Wanted};

/// Bytes of a run's output that are kept; docker's number.
const MAX_OUTPUT: usize = 4096;
const SIGKILL: u32 = 9;
/// How long what a run wrote may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);
/// What a run that never came to an exit code has instead.
const NONE: i32 = -1;

impl Monitor {
    /// Runs a container's health check as long as it lives in this room.
    pub(super) fn probe(&self, container: &Container, room: &Arc<Room>) {
        let Some(check) = &container.settings.health else {
            return;
        };
        while self.waits(container, room, Duration::from_millis(check.interval_ms)) {
            let is_paused = |it: &Container| it.status == Status::Paused;
            if self.records.look(&container.id).is_none_or(|it| is_paused(&it)) {
                continue;
            }
            let start = now();
            let (exit_code, output) = self.run_check(container, check);
            let probe = Probe {
                start,
                end: now(),
                exit_code,
                output,
            };
            self.note(container, room, check, probe);
        }
    }

    /// Waits for the next run; false once the container has ended.
    fn waits(&self, container: &Container, room: &Arc<Room>, interval: Duration) -> bool {
        let begun = Instant::now();
        let mut table = lock(&self.table);
        loop {
            if !table.holds(&container.id, room) {
                return false;
            }
            let left = interval.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(table, left);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes down how a run went, unless the container has ended meanwhile.
    fn note(&self, container: &Container, room: &Arc<Room>, check: &HealthCheck, probe: Probe) {
        let table = lock(&self.table);
        if !table.holds(&container.id, room) {
            return;
        }
        if let Some(mut now) = self.records.look(&container.id) {
            now.health
                .get_or_insert_with(Health::default)
                .note(check, probe, container.started);
            if let Err(error) = self.records.save(&now) {
                complain(&error.to_string());
            }
        }
    }

    /// Runs the command: its exit code, and what it wrote or why there is none.
    fn run_check(&self, container: &Container, check: &HealthCheck) -> (i32, String) {
        let limit = Duration::from_millis(check.timeout_ms);
        let output = Arc::new(Mutex::new(Vec::new()));
        match self.exit_code(container, check, limit, &output) {
            Ok(code) => {
                let output = lock(&output);
                (code, String::from_utf8_lossy(&output).into_owned())
            }
            Err(reason) => (NONE, reason),
        }
    }

    fn exit_code(
        &self,
        container: &Container,
        check: &HealthCheck,
        limit: Duration,
        output: &Arc<Mutex<Vec<u8>>>,
    ) -> Result<i32, String> {
        let words = |error: &dyn std::error::Error| error.to_string();
        let exec = new_id().map_err(|error| words(&error))?;
        let (named, streams) = stdio::open(&self.sandbox.vsock(), Wanted::Pipes { stdin: false })
            .map_err(|error| words(&error))?;
        let mut process = container.settings.spec.process.clone();
        process.args.clone_from(&check.command);
        process.terminal = false;
        let agent = self.sandbox.agent();
        let begun = Instant::now();
        let request = v1::ExecRequest {
            id: container.id.clone(),
            exec_id: exec.clone(),
            process: process.to_json().to_string().into_bytes(),
            user: container.settings.user.clone(),
            stdio: Some(named).into(),
            ..Default::default()
        };
        agent.exec(request).map_err(|error| words(&error))?;
        let streams: Vec<_> = streams.stdout.into_iter().chain(streams.stderr).collect();
        let readers: Vec<_> = streams.iter().filter_map(|stream| read(stream, output)).collect();
        let process = ProcessId::exec(&container.id, &exec);
        let exit = agent.wait(&process, Some(limit.saturating_sub(begun.elapsed())));
        let exit = exit.map_err(|error| match error.kind() {
            Some(ErrorKind::ERROR_KIND_DEADLINE) => {
                let _ = agent.signal(&process, SIGKILL);
                format!("the health check took longer than {} ms", check.timeout_ms)
            }
            _ => error.to_string(),
        });
        // What it wrote last is still on its way.
        let begun = Instant::now();
        while begun.elapsed() < LAST_WORDS && !readers.iter().all(thread::JoinHandle::is_finished) {
            thread::sleep(LOOK);
        }
        // What it has left behind may keep them open.
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for reader in readers {
            let _ = reader.join();
        }
        Ok(i32::try_from(exit?.code).unwrap_or(NONE))
    }
}

/// Keeps the beginning of what comes, and drops the rest.
fn read(stream: &UnixStream, output: &Arc<Mutex<Vec<u8>>>) -> Option<thread::JoinHandle<()>> {
    let (mut stream, output) = (stream.try_clone().ok()?, Arc::clone(output));
    let read = move || {
        let mut buffer = [0; MAX_OUTPUT];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let mut output = lock(&output);
            let room = MAX_OUTPUT.saturating_sub(output.len());
            output.extend(buffer.iter().take(length.min(room)));
        }
    };
    thread::Builder::new().name("health".to_owned()).spawn(read).ok()
}
