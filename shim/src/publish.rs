//! Events to containerd. They go one after the other, from a thread of their own: whoever has something to tell never
//! waits for containerd, which may be gone for a while.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use protobuf::Message;
use ttrpc::context::with_duration;

use crate::generated::forward::{Envelope, Event, ForwardRequest, Time};
use crate::generated::forward_ttrpc::EventsClient;
use crate::{log, time};

/// Events that wait. Beyond them new ones are lost: containerd has been away for long, and asks for states when it is back.
const MAX_WAITING: usize = 4096;
/// How long containerd may take to take one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an event is tried: a restart of containerd takes less.
const LIFETIME: Duration = Duration::from_secs(120);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// An event on its way.
struct Letter {
    born: Instant,
    topic: &'static str,
    request: ForwardRequest,
}

/// Takes events.
#[derive(Clone)]
pub struct Publisher {
    namespace: String,
    letters: Option<SyncSender<Letter>>,
    on_the_way: Arc<(Mutex<usize>, Condvar)>,
}

impl Publisher {
    /// Sends events to the ttRPC socket at `address`, a path; to nobody if it is empty.
    ///
    /// # Errors
    /// Those of `pthread_create(3)`.
    pub fn start(address: &str, namespace: &str) -> std::io::Result<Self> {
        let on_the_way = Arc::<(Mutex<usize>, Condvar)>::default();
        let mut letters = None;
        if !address.is_empty() {
            let (sender, receiver) = sync_channel(MAX_WAITING);
            letters = Some(sender);
            let address = format!("unix://{}", address.trim_start_matches("unix://"));
            let left = Arc::clone(&on_the_way);
            thread::Builder::new()
                .name("events".to_owned())
                .spawn(move || carry(&address, &receiver, &left))?;
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            letters,
            on_the_way,
        })
    }

    /// containerd's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Sends an event, sooner or later.
    pub fn publish(&self, topic: &'static str, name: &str, event: &impl Message) {
        let Some(letters) = &self.letters else { return };
        let (seconds, nanos) = time::since_epoch(SystemTime::now());
        let event = Event {
            type_url: format!("containerd.events.{name}"),
            // Writing into a vector cannot fail.
            value: event.write_to_bytes().unwrap_or_default(),
            ..Default::default()
        };
        let envelope = Envelope {
            timestamp: Some(Time {
                seconds,
                nanos,
                ..Default::default()
            })
            .into(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event).into(),
            ..Default::default()
        };
        let letter = Letter {
            born: Instant::now(),
            topic,
            request: ForwardRequest {
                envelope: Some(envelope).into(),
                ..Default::default()
            },
        };
        self.count(1);
        if letters.try_send(letter).is_err() {
            self.count(-1);
            log::tell(&format!(
                "event {topic} is lost: {MAX_WAITING} others wait for containerd"
            ));
        }
    }

    /// Waits until all events have gone, or `patience` is over.
    pub fn flush(&self, patience: Duration) {
        let (count, changed) = &*self.on_the_way;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = changed.wait_timeout_while(count, patience, |count| *count > 0);
    }

    fn count(&self, change: isize) {
        add(&self.on_the_way, change);
    }
}

fn add(on_the_way: &(Mutex<usize>, Condvar), change: isize) {
    let mut count = on_the_way.0.lock().unwrap_or_else(PoisonError::into_inner);
    *count = count.saturating_add_signed(change);
    on_the_way.1.notify_all();
}

fn carry(address: &str, letters: &Receiver<Letter>, left: &(Mutex<usize>, Condvar)) {
    let mut client = None;
    loop {
        // A connection that nobody needs is given up, and with it its threads.
        let letter = match letters.recv_timeout(LIFETIME) {
            Ok(letter) => letter,
            Err(RecvTimeoutError::Timeout) => {
                client = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while let Err(why) = deliver(address, &mut client, &letter) {
            if letter.born.elapsed() >= LIFETIME {
                log::tell(&format!("event {} is lost: {why}", letter.topic));
                break;
            }
            thread::sleep(PAUSE);
        }
        add(left, -1);
    }
}

/// Delivers one event. A refusal is an answer, too: asking again would not change it.
fn deliver(address: &str, client: &mut Option<EventsClient>, letter: &Letter) -> Result<(), ttrpc::Error> {
    let connected = match client.take() {
        Some(connected) => connected,
        None => EventsClient::new(ttrpc::Client::connect(address)?),
    };
    match connected.forward(with_duration(PATIENCE), &letter.request) {
        Ok(_) => {
            *client = Some(connected);
            Ok(())
        }
        Err(ttrpc::Error::RpcStatus(status)) => {
            log::tell(&format!("event {} is refused: {}", letter.topic, status.message));
            *client = Some(connected);
            Ok(())
        }
        Err(error) => Err(error),
    }
}
