//! The one loop on which the API, the devices, the console and the signals are served.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use crate::ending::{EndLine, Ending};
use crate::signals::SignalRequests;

/// Anything that the loop serves.
pub type Subscriber = Box<dyn MutEventSubscriber>;
/// Subscribers that want to join while the loop is in the middle of serving another one.
pub type Arrivals = Rc<RefCell<Vec<Subscriber>>>;

/// Serves everybody until `end` is announced, and says how it ended.
pub fn run(arrivals: &Arrivals, end: &EndLine) -> io::Result<Ending> {
    let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
    loop {
        for subscriber in arrivals.borrow_mut().drain(..) {
            manager.add_subscriber(subscriber);
        }
        if let Some(ending) = end.take() {
            return Ok(ending);
        }
        match manager.run() {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(errno)) if errno.errno() == libc::EINTR => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Adds a descriptor that a subscriber cannot do without. The loop has room for all of them, so that a refusal is a
/// defect, which the log then shows.
pub fn watch(ops: &mut EventOps<'_>, fd: RawFd, events: EventSet) {
    if let Err(error) = ops.add(Events::new_raw(fd, events)) {
        log::error!("cannot watch descriptor {fd}: {error}");
    }
}

/// Wakes the loop when the guest ends.
pub struct EndSubscriber(pub Arc<EndLine>);

impl MutEventSubscriber for EndSubscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, self.0.event().as_raw_fd(), EventSet::IN);
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // Nothing to do: the loop looks at the line after each turn. The counter stays set, so that no turn waits.
    }
}

/// Turns signals that ask the process to end into an ending.
pub struct SignalSubscriber {
    /// The signals.
    pub requests: SignalRequests,
    /// Where the ending is announced.
    pub end: Arc<EndLine>,
}

impl MutEventSubscriber for SignalSubscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, self.requests.as_raw_fd(), EventSet::IN);
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        if let Some(signal) = self.requests.read() {
            self.end.announce(Ending::Signal(signal));
        }
    }
}
