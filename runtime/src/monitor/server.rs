//! Answers commands.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;

use serde_json::{Value, json};

use super::Monitor;
use crate::control::{Answer, Request, receive, send, socket};
use crate::error::RuntimeError;
use crate::events;
use crate::record::Status;

/// Listens from now on.
pub(super) fn listen(monitor: &Arc<Monitor>) -> Result<(), RuntimeError> {
    let path = socket(&monitor.context.store.folder(&monitor.id()));
    let listener = koya_sandbox::sockets::listen(&path).map_err(RuntimeError::file("listen at", &path))?;
    let monitor = Arc::clone(monitor);
    thread::spawn(move || serve(&monitor, &listener));
    Ok(())
}

fn serve(monitor: &Arc<Monitor>, listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        let monitor = Arc::clone(monitor);
        thread::spawn(move || answer(&monitor, &stream));
    }
}

fn answer(monitor: &Monitor, stream: &UnixStream) {
    // Only its owner can open the folder that the socket is in.
    let Ok(request) = receive::<Request>(stream) else {
        return;
    };
    let answering = monitor.answering.read().unwrap_or_else(PoisonError::into_inner);
    let answer = match monitor.carry_out(&request) {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(error.one_line()),
    };
    let _ = send(stream, &answer);
    drop(answering);
}

impl Monitor {
    fn carry_out(&self, request: &Request) -> Result<Value, RuntimeError> {
        let (id, agent) = (self.id(), self.sandbox.agent());
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
                if let Err(error) = agent.start(&id) {
                    // It cannot be started any more, and is not to be waited for.
                    self.sandbox.end();
                    return Err(error.into());
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
