//! Containers that are started again when they have ended: in the microVM that still runs, or, if that has ended under
//! them, in another one.
//!
//! ```text
//!  ended ──► restarting ── delay ──► start ──► running
//!                 └── somebody stops or removes it ──► stopped
//! ```
//!
//! Whose microVM has ended is waited for by its monitor, which is no monitor any more by then: another one may boot the
//! microVM meanwhile, for somebody else, and whoever wants the container at once may start it.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::client::{self, Program};
use super::ends::{FAILED, write_end};
use super::output::{complain, lock};
use super::server::Monitor;
use crate::state::{Container, Exit, Records, Status, now};

/// Between two looks whether somebody has stopped what waits.
const LOOK: Duration = Duration::from_millis(100);
/// How long a VMM may take to end whose agent does not answer any more.
const ENDING: Duration = Duration::from_secs(5);

/// What a container is that has just ended.
pub(super) fn status_after(records: &Records, container: &mut Container, exit: &Exit) -> Status {
    let ran = Duration::from_nanos(now().saturating_sub(container.started));
    status_after_running(records, container, exit.code, ran)
}

fn status_after_running(records: &Records, container: &mut Container, code: u8, ran: Duration) -> Status {
    let restarts = container.restarts;
    if records.stays(&container.id) || !container.settings.restart.wants(code, restarts) {
        return Status::Stopped;
    }
    container.restarts = restarts.next(ran);
    Status::Restarting
}

/// What is to be done with a container that waits.
enum Wait {
    /// It is to be started.
    Due,
    /// It has to wait on.
    Longer,
    /// It has been started, stopped or removed, and waits no more.
    Over,
}

/// A container that waits.
struct Waiting {
    id: String,
    since: Instant,
}

impl Waiting {
    fn new(id: String) -> Self {
        let since = Instant::now();
        Self { id, since }
    }

    fn known(&self, records: &Records) -> Option<Container> {
        records
            .look(&self.id)
            .filter(|it| it.status == Status::Restarting)
    }

    /// What is to be done now. That somebody has stopped it is written down.
    fn look(&self, records: &Records) -> Wait {
        let Some(mut container) = self.known(records) else {
            return Wait::Over;
        };
        if records.stays(&self.id) {
            write_end(records, &mut container);
            return Wait::Over;
        }
        match self.since.elapsed() >= container.restarts.delay() {
            true => Wait::Due,
            false => Wait::Longer,
        }
    }
}

/// Starts containers, each in its time, whose microVM has ended. One that cannot be started counts as one that has ended.
pub(super) fn start_elsewhere(records: &Records, program: &Program, bereft: Vec<String>) {
    let mut waiting: Vec<_> = bereft.into_iter().map(Waiting::new).collect();
    while !waiting.is_empty() {
        waiting.retain_mut(|one| match one.look(records) {
            Wait::Over => false,
            Wait::Longer => true,
            Wait::Due => match one.known(records) {
                None => false,
                Some(container) => !start(records, program, container, one),
            },
        });
        thread::sleep(LOOK);
    }
}

/// Starts one; whether nobody has to wait for it any more.
fn start(records: &Records, program: &Program, container: Container, waiting: &mut Waiting) -> bool {
    let Err(error) = client::start(records, program, &container, false, |_| {}) else {
        return true;
    };
    complain(&format!("cannot start {} again: {error}", container.id));
    *waiting = Waiting::new(container.id.clone());
    let Some(mut now) = records.look(&container.id) else {
        return true;
    };
    if now.is_active() {
        // Nobody has come so far as to write anything down, or somebody else has started it.
        return now.status != Status::Restarting;
    }
    now.restarts = container.restarts;
    now.status = status_after_running(records, &mut now, FAILED, Duration::ZERO);
    let again = now.status == Status::Restarting;
    if again && let Err(error) = records.save(&now) {
        complain(&error.to_string());
    }
    !again
}

impl Monitor {
    /// Goes on after the end of a container, which is counted as a request that is worked on.
    pub(super) fn go_on(self: &Arc<Self>, container: &Container, exit: &Exit) {
        if container.status != Status::Restarting {
            return self.settle();
        }
        // Only of one whose microVM may have ended there is more to say than a code.
        if !exit.error.is_empty() && self.sandbox.has_ended(ENDING) {
            lock(&self.bereft).push(container.id.clone());
            return self.settle();
        }
        let id = container.id.clone();
        self.spawn(move |monitor| monitor.start_again(id));
    }

    /// Starts a container again, once it is time. It is counted as a request.
    fn start_again(self: &Arc<Self>, id: String) {
        let waiting = Waiting::new(id);
        loop {
            let wait = waiting.look(&self.records);
            let ended = self.sandbox.has_ended(Duration::ZERO);
            match wait {
                Wait::Over => break,
                // It waits on elsewhere.
                _ if ended => {
                    lock(&self.bereft).push(waiting.id);
                    break;
                }
                Wait::Longer => thread::sleep(LOOK),
                Wait::Due => {
                    self.start_here(&waiting.id);
                    break;
                }
            }
        }
        self.settle();
    }

    /// Starts one in this microVM. One whose microVM ends meanwhile is to be started elsewhere.
    fn start_here(self: &Arc<Self>, id: &str) {
        let before = self.records.look(id);
        // Nobody waits for the answer; but somebody has to be there.
        let started = UnixStream::pair().map(|(socket, _client)| self.start(id, false, 0, &socket, false));
        let error = match started {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        complain(&format!("cannot start {id} again: {error}"));
        if let Some(before) = before
            && self.sandbox.has_ended(ENDING)
            && !self.records.stays(id)
        {
            // As it was before.
            match self.records.save(&before) {
                Ok(()) => lock(&self.bereft).push(id.to_owned()),
                Err(error) => complain(&error.to_string()),
            }
        }
    }
}
