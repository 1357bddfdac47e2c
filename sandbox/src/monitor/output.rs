//! What a container writes goes to its log and to everybody who is attached.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol::{Frame, Kind, frame};
use crate::log::{Stream, Writer};
use crate::state::{Exit, LogSettings};

/// Somebody who is attached. What is written waits for him: a container whose reader is slow is slow.
struct Client {
    number: u64,
    socket: Mutex<UnixStream>,
    /// The same, for whoever does not want to wait until all is written.
    shutdown: UnixStream,
}

/// Where the output of a container goes.
pub(super) struct Output {
    log: Mutex<Option<Writer>>,
    clients: Mutex<Vec<Arc<Client>>>,
    /// How it ended, for whoever comes later.
    ended: Mutex<Option<Exit>>,
}

impl Output {
    /// To the log in `folder`, and to nobody yet. A container whose log cannot be written runs without one.
    pub fn open(folder: &Path, settings: &LogSettings) -> Self {
        let log = Writer::open(folder, settings).unwrap_or_else(|error| {
            complain(&format!("cannot open the log in {folder:?}: {error}"));
            None
        });
        Self {
            log: Mutex::new(log),
            clients: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Sends to `socket`, too, from now on.
    pub fn attach(&self, number: u64, socket: UnixStream) {
        let Ok(shutdown) = socket.try_clone() else { return };
        let client = Client {
            number,
            shutdown,
            socket: Mutex::new(socket),
        };
        let ended = lock(&self.ended);
        lock(&self.clients).push(Arc::new(client));
        if let Some(exit) = &*ended {
            self.say_goodbye(exit);
        }
    }

    /// Ends the connections of everybody, whatever they still have to read.
    pub fn leave(&self) {
        for client in lock(&self.clients).drain(..) {
            let _ = client.shutdown.shutdown(Shutdown::Both);
        }
    }

    /// Sends to a client no more.
    pub fn detach(&self, number: u64) {
        lock(&self.clients).retain(|client| client.number != number);
    }

    /// Passes a stream of the container on until it ends.
    pub fn pump(&self, mut source: &UnixStream, stream: Stream) {
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        let mut frame = Frame::new();
        while let Ok(len @ 1..) = source.read(frame.payload()) {
            self.keep(|log| log.take(stream, frame.payload().get(..len).unwrap_or_default()));
            self.send(frame.seal(kind, len));
        }
        self.keep(|log| log.finish(stream));
    }

    /// Tells everybody how it ended.
    pub fn end(&self, exit: &Exit) {
        let mut ended = lock(&self.ended);
        *ended = Some(exit.clone());
        self.say_goodbye(exit);
    }

    fn say_goodbye(&self, exit: &Exit) {
        let said = serde_json::to_vec(exit).unwrap_or_default();
        self.send(&frame(Kind::Exit, &said));
        for client in lock(&self.clients).drain(..) {
            let _ = client.shutdown.shutdown(Shutdown::Both);
        }
    }

    fn send(&self, frame: &[u8]) {
        let clients = lock(&self.clients).clone();
        for client in clients {
            let sent = lock(&client.socket).write_all(frame);
            if sent.is_err() {
                self.detach(client.number);
            }
        }
    }

    /// A full disk ends the log and not the container.
    fn keep(&self, write: impl FnOnce(&mut Writer) -> std::io::Result<()>) {
        let mut log = lock(&self.log);
        let Some(writer) = log.as_mut() else { return };
        if let Err(error) = write(writer) {
            complain(&format!("cannot write the log, which ends here: {error}"));
            *log = None;
        }
    }
}

/// Takes a lock, whatever its last holder died of.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says something in the monitor's own log.
pub(super) fn complain(words: &str) {
    let _ = writeln!(std::io::stderr(), "koya: {words}");
}

/// What a monitor has to say itself, in its microVM's folder.
pub(super) const OWN_LOG: &str = "monitor.log";

/// A file for what a monitor has to say itself.
pub(super) fn own_log(folder: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join(OWN_LOG);
    File::options().create(true).append(true).mode(0o600).open(path)
}
