//! Joins connections to requests by token, whichever comes first.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};

use koya_proto::stream::{TOKEN_WAIT, Token};

use crate::error::{Result, exists};
use crate::sys::{Deadline, lock};

/// What a pump is told.
pub enum Event {
    /// The stream is there.
    Connected(OwnedFd),
    /// The process has ended.
    Ended,
}

/// Tokens that requests have named and that no connection has used.
#[derive(Default)]
pub struct Broker {
    waiting: Mutex<HashMap<Token, Sender<Event>>>,
    named: Condvar,
}

/// A request's half of a stream. Dropping it forgets the token.
pub struct Ticket {
    broker: Arc<Broker>,
    token: Token,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Broker {
    /// Waits for a connection with this token.
    pub fn expect(self: &Arc<Self>, token: Token) -> Result<Ticket> {
        let (sender, receiver) = mpsc::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.contains_key(&token) {
            return Err(exists("a stream's token is in use; each stream needs a new one"));
        }
        waiting.insert(token, sender.clone());
        drop(waiting);
        self.named.notify_all();
        let broker = Arc::clone(self);
        Ok(Ticket {
            broker,
            token,
            sender,
            receiver,
        })
    }

    /// Hands over a connection; waits a little for a request to name its token,
    /// and closes it if none does.
    pub fn deliver(&self, token: Token, connection: OwnedFd) {
        let deadline = Deadline::after(TOKEN_WAIT);
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(sender) = waiting.remove(&token) {
                // If the pump has gone, so has its process: closed.
                let _ = sender.send(Event::Connected(connection));
                return;
            }
            let left = deadline.left().unwrap_or_default();
            if left.is_zero() {
                return;
            }
            waiting = match self.named.wait_timeout(waiting, left) {
                Ok((waiting, _)) => waiting,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Ticket {
    /// Through which the pump is told of the process's end.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Waits for the connection, for at most a time.
    pub fn connection(&self, wait: std::time::Duration) -> Option<OwnedFd> {
        match self.receiver.recv_timeout(wait) {
            Ok(Event::Connected(connection)) => Some(connection),
            _ => None,
        }
    }

    /// The next event.
    pub fn receiver(&self) -> &Receiver<Event> {
        &self.receiver
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.broker.waiting).remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::os::unix::net::UnixStream::pair().unwrap().0.into()
    }

    fn connected(ticket: &Ticket) -> bool {
        matches!(
            ticket.receiver().recv_timeout(TOKEN_WAIT),
            Ok(Event::Connected(_))
        )
    }

    #[test]
    fn a_connection_may_come_first_or_last() {
        let broker = Arc::new(Broker::default());
        let (first, second) = (Token::random().unwrap(), Token::random().unwrap());
        let early = std::thread::spawn({
            let broker = Arc::clone(&broker);
            move || broker.deliver(first, socket())
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(connected(&broker.expect(first).unwrap()));
        early.join().unwrap();
        let ticket = broker.expect(second).unwrap();
        broker.deliver(second, socket());
        assert!(connected(&ticket));
    }

    #[test]
    fn a_token_is_named_once_and_forgotten_with_its_ticket() {
        let broker = Arc::new(Broker::default());
        let token = Token::random().unwrap();
        let ticket = broker.expect(token).unwrap();
        assert!(broker.expect(token).is_err());
        drop(ticket);
        assert!(lock(&broker.waiting).is_empty());
        assert!(broker.expect(token).is_ok());
    }
}
