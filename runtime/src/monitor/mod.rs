//! The process that boots a container's microVM, joins its streams, answers commands, and ends as the container does.

mod guest;
mod network;
mod server;
mod signals;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use koya_proto::v1;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::control::send;
use crate::create::{Birth, Word};
use crate::error::RuntimeError;
use crate::house::House;
use crate::record::{Record, Status};
use crate::streams::Own;
use crate::{Context, threads};

/// As a container ends whose microVM is gone: as if by SIGKILL.
const KILLED: u8 = 137;

/// What all threads of a monitor have.
pub struct Monitor {
    context: Context,
    record: Mutex<Record>,
    house: House,
    /// Its network, if the microVM is its own.
    network: Option<network::Network>,
    own: Own,
    /// Held for reading while a command is answered, so that the end waits for it. Taken after `changing`.
    answering: RwLock<()>,
    /// Held by whoever looks at the status in order to change it.
    changing: Mutex<()>,
    /// Whether the program has been started.
    started: AtomicBool,
    /// Whether somebody sees to it that a container that was killed or has ended is gone soon.
    doomed: AtomicBool,
    /// How long that may take.
    grace: Duration,
}

/// The monitor's life; the container's exit code. `go` ends when the stand-in is ready.
pub fn live(birth: Birth, mut go: File) -> u8 {
    let _ = rustix::thread::set_name(c"koya-monitor");
    let _ = go.read_to_end(&mut Vec::new());
    drop(go);
    let signals = match signals::take(birth.record.stop_signal()) {
        Ok(signals) => signals,
        Err(error) => return refuse(&birth, &error),
    };
    match guest::create(&birth) {
        Ok(Guest {
            house,
            network,
            outputs,
        }) => {
            let Birth {
                context,
                record,
                own,
                creator,
                lock,
                ..
            } = birth;
            // What its creator has added since.
            let record = context.store.load(&record.id).unwrap_or(record);
            let monitor = Arc::new(Monitor {
                context,
                record: Mutex::new(record),
                house,
                network,
                own,
                answering: RwLock::new(()),
                changing: Mutex::new(()),
                started: AtomicBool::new(false),
                doomed: AtomicBool::new(false),
                grace: GRACE,
            });
            let code = monitor.run(&signals, &creator, outputs);
            drop(lock);
            code
        }
        Err(error) => refuse(&birth, &error),
    }
}

fn refuse(birth: &Birth, error: &RuntimeError) -> u8 {
    let _ = send(&birth.creator, &Word::Failed(error.into()));
    1
}

/// A microVM with a created container in it.
struct Guest {
    house: House,
    /// Its network, if it was booted for the container.
    network: Option<network::Network>,
    /// End with the container's output.
    outputs: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// Stays until the container has ended; its exit code.
    fn run(
        self: &Arc<Self>,
        signals: &signals::Taken,
        creator: &std::os::unix::net::UnixStream,
        outputs: Vec<JoinHandle<()>>,
    ) -> u8 {
        let ready = server::listen(self)
            .and_then(|()| signals.pass_on(self))
            .and_then(|()| self.watch());
        if let Err(error) = ready {
            self.house.leave();
            let _ = send(creator, &Word::Failed((&error).into()));
            return 1;
        }
        self.set(Status::Created);
        if send(creator, &Word::Created).is_err() {
            // Nobody knows of it.
            self.house.leave();
            return 1;
        }
        let _ = creator.shutdown(std::net::Shutdown::Both);
        let exit = self.house.agent().wait(&self.id().as_str().into(), None);
        let code = match exit {
            Ok(exit) => {
                for output in outputs {
                    let _ = output.join();
                }
                if exit.oom
                    && let Err(error) = self.context.store.note_oom(&self.id())
                {
                    self.context.log.warn(&error.one_line());
                }
                u8::try_from(exit.code).unwrap_or(u8::MAX)
            }
            Err(error) => {
                self.context.log.error(&format!(
                    "the microVM of container '{}' ended: {error}",
                    self.id()
                ));
                KILLED
            }
        };
        // Whoever started it is told so before it is gone. A guest that hangs in a command is not waited for much longer.
        self.doom();
        let _last = self.answering.write().unwrap_or_else(PoisonError::into_inner);
        self.set(Status::Stopped);
        self.house.leave();
        code
    }

    /// Ends the microVM when the process that serves its files is gone: it would wait for them for ever.
    fn watch(self: &Arc<Self>) -> Result<(), RuntimeError> {
        // Another container's is watched by that one's monitor.
        let Some(server) = self.house.server() else {
            return Ok(());
        };
        let pid = i32::try_from(server).ok().and_then(Pid::from_raw);
        let process = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(RuntimeError::system("watch virtiofsd"))?;
        let monitor = Arc::clone(self);
        let work = move || {
            while poll(&mut [PollFd::new(&process, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
            monitor.house.end();
        };
        threads::spawn("watch", work).map(drop).map_err(threads::refused)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> String {
        self.record().id.clone()
    }

    fn status(&self) -> Status {
        self.record().status
    }

    /// Remembers where the container is in its life.
    fn set(&self, status: Status) {
        let mut record = self.record();
        record.status = status;
        if let Err(error) = self.context.store.save(&record) {
            self.context.log.error(&error.one_line());
        }
    }

    /// Sends a signal to the first process, or to all. After SIGKILL the microVM ends in any case: at once if the agent does
    /// not answer, and soon if it says that all is done, and it is not.
    fn signal(self: &Arc<Self>, number: u32, all: bool) -> Result<(), RuntimeError> {
        let id = self.id();
        let agent = self.house.agent().clone();
        let kill = number == libc::SIGKILL.cast_unsigned();
        let agent = match kill {
            true => agent.with_deadline(PATIENCE),
            false => agent,
        };
        let sent = match all {
            true => agent.signal_all(&id, number),
            false => agent.signal(&id.as_str().into(), number),
        };
        match sent {
            Err(error) if kill && error.kind() != Some(koya_proto::error::ErrorKind::ERROR_KIND_STATE) => {
                self.house.end();
                Ok(())
            }
            sent => {
                if kill {
                    self.doom();
                }
                Ok(sent?)
            }
        }
    }

    /// Ends the microVM if the container in it, which was killed or said to have ended, is not gone before: the agent is the
    /// guest's, and may lie. With the container's end this process ends, and the thread with it.
    fn doom(self: &Arc<Self>) {
        if self.doomed.swap(true, Ordering::SeqCst) {
            return;
        }
        let monitor = Arc::clone(self);
        let work = move || {
            std::thread::sleep(monitor.grace);
            monitor.house.end();
        };
        if threads::spawn("doom", work).is_err() {
            // Whoever sends SIGKILL wants no more of it.
            self.house.end();
        }
    }

    /// Tells the guest's terminal the size of this side's.
    fn resize(&self) {
        if let Some(slave) = self.own.terminal() {
            let (rows, columns) = crate::console::size(slave);
            if (rows, columns) != (0, 0) {
                let _ = self
                    .house
                    .agent()
                    .resize(&self.id().as_str().into(), rows, columns);
            }
        }
    }

    fn has_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }
}

/// How long an agent may take that is to kill something: an engine is to see the end of a guest that hangs after two
/// seconds, and the microVM has to end within what is left of them.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a container may take to end after that, with all that it wrote before.
const GRACE: Duration = Duration::from_secs(10);

/// A share's message.
fn share(tag: &str) -> v1::Share {
    v1::Share {
        tag: tag.to_owned(),
        ..Default::default()
    }
}
