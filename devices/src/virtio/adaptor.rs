//! Between the event loop and a virtio device: one subscriber serves them all.
//!
//! The queues' events are watched all the time, the backend's only while the device is active: nobody would read
//! them otherwise, and a readable tap would wake the loop for ever.

use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::{BackendEvent, VirtioDevice};
use super::mmio::{MmioTransport, TransportError};

/// Tells a backend's events from a queue's in the data of an event.
const BACKEND: u32 = 1 << 31;

/// Runs one device on an event loop.
pub struct Adaptor<D> {
    transport: Arc<Mutex<MmioTransport<D>>>,
    watched: Vec<BackendEvent>,
    /// The transport's watch generation that `watched` belongs to.
    generation: Option<u64>,
}

impl<D: VirtioDevice> Adaptor<D> {
    /// An adaptor for the device behind `transport`.
    pub fn new(transport: Arc<Mutex<MmioTransport<D>>>) -> Self {
        Self {
            transport,
            watched: Vec::new(),
            generation: None,
        }
    }

    /// The transport.
    pub fn transport(&self) -> &Arc<Mutex<MmioTransport<D>>> {
        &self.transport
    }

    /// Watches what the device wants to have watched now, and nothing else.
    fn follow(&mut self, transport: &mut MmioTransport<D>, ops: &mut EventOps) {
        let generation = Some(transport.watch_generation());
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        let wanted = transport.watches();
        let same = |a: &BackendEvent, b: &BackendEvent| {
            a.fd == b.fd && a.token == b.token && a.events.bits() == b.events.bits()
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.watched)
            .into_iter()
            .partition(|old| wanted.iter().any(|new| same(old, new)));
        self.watched = kept;
        for event in gone {
            report(transport, ops.remove(to_events(&event)));
        }
        for event in wanted {
            if self.watched.iter().any(|old| same(old, &event)) {
                continue;
            }
            if report(transport, ops.add(to_events(&event))) {
                self.watched.push(event);
            }
        }
    }
}

impl<D: VirtioDevice> MutEventSubscriber for Adaptor<D> {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let shared = self.transport.clone();
        let mut transport = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let data = events.data();
        if data & BACKEND == 0 {
            transport.process_queue(data);
        } else {
            transport.process_backend(data & !BACKEND, events.event_set());
        }
        self.follow(&mut transport, ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let shared = self.transport.clone();
        let mut transport = shared.lock().unwrap_or_else(PoisonError::into_inner);
        for (event, index) in transport.watched_events() {
            report(
                &mut transport,
                ops.add(Events::with_data(&*event, index, EventSet::IN)),
            );
        }
        self.follow(&mut transport, ops);
    }
}

fn to_events(event: &BackendEvent) -> Events {
    Events::with_data_raw(event.fd, event.token | BACKEND, event.events)
}

fn report<D: VirtioDevice>(
    transport: &mut MmioTransport<D>,
    result: Result<(), event_manager::Error>,
) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            transport.report(&TransportError::Watch(error));
            false
        }
    }
}

#[cfg(test)]
mod tests;
