//! Answers commands.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use koya_sandbox::Kind;
use koya_sandbox::resident::forget_start;
use serde_json::{Value, json};

use super::Monitor;
use crate::control::{Answer, Request, Told, receive, send, socket};
use crate::error::RuntimeError;
use crate::events;
use crate::record::Status;
use crate::threads;

/// Commands that are answered at once: an engine has a few at a time, and each takes a thread. Some wait for the guest, half
/// a minute at most.
pub(super) const MAX_COMMANDS: usize = 64;
/// Those that are heard beyond that, so that SIGKILL finds room however many hang; others are refused then.
const MAX_HEARD: usize = 80;
/// Why one is refused.
const FULL: &str = "the monitor answers as many commands as it can at once";
/// How long a command may take to say what it wants, which it does at once, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until another try, when the host has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens from now on.
pub(super) fn listen(monitor: &Arc<Monitor>) -> Result<(), RuntimeError> {
    let path = socket(&monitor.context.store.folder(&monitor.id()));
    let listener = koya_sandbox::sockets::listen(&path).map_err(RuntimeError::file("listen at", &path))?;
    let monitor = Arc::clone(monitor);
    let work = move || serve(&monitor, &listener);
    threads::spawn("commands", work)
        .map(drop)
        .map_err(threads::refused)
}

fn serve(monitor: &Arc<Monitor>, listener: &UnixListener) {
    // Each thread has a copy of it as long as it lives.
    let served = Arc::new(());
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            thread::sleep(PAUSE);
            continue;
        };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let count = Arc::strong_count(&served);
        if count > MAX_HEARD {
            refuse(&stream, FULL);
            continue;
        }
        let full = count > MAX_COMMANDS;
        let (monitor, served) = (Arc::clone(monitor), Arc::clone(&served));
        let other = stream.try_clone();
        let work = move || {
            answer(&monitor, &stream, full);
            drop(served);
        };
        if threads::spawn("command", work).is_err()
            && let Ok(stream) = other
        {
            refuse(&stream, "the monitor has no thread for another command");
        }
    }
}

/// Tells somebody that the container lives, and that he has to come again.
fn refuse(stream: &UnixStream, why: &str) {
    let _ = send(
        stream,
        &Answer::Failed(Told::new(Kind::Limit, format!("{why}; try again"))),
    );
}

/// Answers a command; when it is full, none but SIGKILL.
fn answer(monitor: &Arc<Monitor>, stream: &UnixStream, full: bool) {
    // Only its owner can open the folder that the socket is in.
    let Ok(request) = receive::<Request>(stream) else {
        return;
    };
    // SIGKILL waits for nobody: the guest may hang in what is asked of it.
    let kills = request.kills();
    if full && !kills {
        return refuse(stream, FULL);
    }
    // Of two who want to change it at once, the second sees what the first has made of it.
    let waits = !matches!(request, Request::Stats | Request::Processes) && !kills;
    let changing = waits.then(|| monitor.changing.lock().unwrap_or_else(PoisonError::into_inner));
    // Only now, so that the end does not wait for those who wait for their turn. While it waits, nobody gets the lock.
    let answering = match kills {
        true => monitor.answering.try_read().ok(),
        false => Some(monitor.answering.read().unwrap_or_else(PoisonError::into_inner)),
    };
    let answer = match monitor.carry_out(&request) {
        Ok(value) => Answer::Done(value),
        // It has ended meanwhile, and this process is about to: who sees that waits for it, and has what he wanted.
        Err(RuntimeError::State {
            status: Status::Stopped,
            ..
        }) if kills => return,
        Err(error) => Answer::Failed((&error).into()),
    };
    drop(changing);
    let _ = send(stream, &answer);
    drop(answering);
}

impl Monitor {
    fn carry_out(self: &Arc<Self>, request: &Request) -> Result<Value, RuntimeError> {
        let (id, agent) = (self.id(), self.house.agent());
        match request {
            Request::Start => {
                self.want(&[Status::Created], "created", "started")?;
                // It may end before the answer comes. Of two who start it at once, one does.
                if self.started.swap(true, Ordering::SeqCst) {
                    return Err(RuntimeError::State {
                        id,
                        status: Status::Running,
                        wanted: "created",
                        verb: "started",
                    });
                }
                self.set(Status::Running);
                if let Err(error) = self.start(&id) {
                    // It cannot be started any more, and is not to be waited for.
                    self.house.end();
                    return Err(error);
                }
                self.resize();
            }
            Request::Kill { signal, all } => {
                let alive = [Status::Created, Status::Running, Status::Paused];
                self.want(&alive, "created or running", "sent a signal")?;
                self.signal(*signal, *all)?;
            }
            Request::Pause => {
                self.want(&[Status::Running], "running", "paused")?;
                agent.pause(&id)?;
                self.set(Status::Paused);
            }
            Request::Resume => {
                self.want(&[Status::Paused], "paused", "resumed")?;
                agent.resume(&id)?;
                self.set(Status::Running);
            }
            Request::Update(resources) => agent.update(&id, resources.to_string().into_bytes())?,
            Request::Stats => return Ok(events::stats(&agent.stats(&id)?)),
            Request::Processes => {
                let state = agent.state(&id)?;
                return Ok(json!({ "pid": state.pid, "execs": state.execs }));
            }
        }
        Ok(Value::Null)
    }

    /// Runs the program, with the network that has come since.
    fn start(self: &Arc<Self>, id: &str) -> Result<(), RuntimeError> {
        if let Some(network) = &self.network {
            network.give_late(self.tenant(id))?;
        }
        self.house.agent().start(id)?;
        if let Err(error) = self.follow_network() {
            let error = error.one_line();
            let log = &self.context.log;
            log.warn(&format!(
                "the container stays on the networks that it has: {error}"
            ));
        }
        // From now on it mostly waits.
        forget_start();
        Ok(())
    }

    fn want(
        &self,
        possible: &[Status],
        wanted: &'static str,
        verb: &'static str,
    ) -> Result<(), RuntimeError> {
        let status = self.status();
        match possible.contains(&status) {
            true => Ok(()),
            false => Err(RuntimeError::State {
                id: self.id(),
                status,
                wanted,
                verb,
            }),
        }
    }
}
