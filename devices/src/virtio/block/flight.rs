//! Requests that the backend has not finished.

use vm_memory::GuestAddress;

use super::QUEUE_SIZE;
use super::request::Request;

/// What it takes to finish a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    /// Head of its chain.
    pub(super) head: u16,
    pub(super) request: Request,
    /// Where its status goes.
    pub(super) status: GuestAddress,
    /// Writable bytes of its chain.
    pub(super) writable_len: u32,
}

/// Requests in flight by tag, at most [`QUEUE_SIZE`]. Tags are ours: a guest may make one chain available twice.
#[derive(Default)]
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<u16>,
    count: usize,
}

impl Flights {
    /// The tag that [`insert`](Self::insert) will use, if there is room.
    pub(super) fn next_tag(&self) -> Option<u16> {
        let fresh = u16::try_from(self.slots.len())
            .ok()
            .filter(|tag| *tag < QUEUE_SIZE);
        self.free.last().copied().or(fresh)
    }

    /// Keeps `flight` under [`next_tag`](Self::next_tag).
    pub(super) fn insert(&mut self, flight: Flight) {
        match self
            .free
            .pop()
            .and_then(|tag| self.slots.get_mut(usize::from(tag)))
        {
            Some(slot) => *slot = Some(flight),
            None => self.slots.push(Some(flight)),
        }
        self.count = self.count.saturating_add(1);
    }

    /// Takes out the request with `tag`.
    pub(super) fn remove(&mut self, tag: u16) -> Option<Flight> {
        let flight = self.slots.get_mut(usize::from(tag))?.take()?;
        self.free.push(tag);
        self.count = self.count.saturating_sub(1);
        Some(flight)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::block::request::Kind;

    fn flight(head: u16) -> Flight {
        let request = Request {
            kind: Kind::Flush,
            offset: 0,
            data_len: 0,
        };
        Flight {
            head,
            request,
            status: GuestAddress(0),
            writable_len: 1,
        }
    }

    #[test]
    fn a_queue_full_of_requests_fits_and_no_more() {
        let mut flights = Flights::default();
        for head in 0..QUEUE_SIZE {
            assert_eq!(flights.next_tag(), Some(head));
            flights.insert(flight(head));
        }
        assert_eq!(flights.next_tag(), None);
        assert_eq!(flights.remove(7).unwrap().head, 7);
        assert!(flights.remove(7).is_none());
        assert_eq!(flights.next_tag(), Some(7));
        flights.insert(flight(1000));
        assert_eq!(flights.next_tag(), None);
        assert_eq!(flights.remove(7).unwrap().head, 1000);
        assert!(flights.remove(QUEUE_SIZE).is_none());
        assert!(!flights.is_empty());
    }
}
