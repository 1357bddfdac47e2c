#![allow(clippy::arithmetic_side_effects)]

use std::os::fd::AsRawFd;

use event_manager::{EventManager, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::GuestRam;
use crate::virtio::device::{ActivateError, Activation, DeviceFault};
use crate::virtio::mmio::registers::{offset, status};
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition, Step};
use crate::virtio::testing::{CountingLine, MockDoorbells, MockDriver, MockQueue, guest_memory};

/// Answers requests, and counts how often its backend event (which it never reads) is delivered.
struct Device {
    queue: Option<ActiveQueue>,
    backend: EventFd,
    late: Option<EventFd>,
    backend_calls: Vec<u32>,
    faulty: bool,
}

impl VirtioDevice for Device {
    fn device_type(&self) -> u32 {
        1
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[8]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.queue = activation.queues.into_iter().next();
        Ok(())
    }
    fn reset(&mut self) {
        self.queue = None;
    }
    fn process_queue(&mut self, index: usize) -> Result<(), DeviceFault> {
        let queue = self.queue.as_mut().unwrap();
        queue
            .drain(|_| Step::Used(0))
            .map(drop)
            .map_err(|source| DeviceFault::Queue { index, source })
    }
    fn queue_positions(&self) -> Vec<QueuePosition> {
        self.queue.iter().map(ActiveQueue::position).collect()
    }
    fn backend_events(&self) -> Vec<BackendEvent> {
        let event = |fd: &EventFd, token| BackendEvent {
            fd: fd.as_raw_fd(),
            events: EventSet::IN,
            token,
        };
        let late = self.late.iter().map(|late| event(late, 8));
        std::iter::once(event(&self.backend, 7)).chain(late).collect()
    }
    fn process_backend(&mut self, token: u32, events: EventSet) -> Result<(), DeviceFault> {
        assert!(self.queue.is_some(), "called while inactive");
        assert!(events.contains(EventSet::IN));
        self.backend_calls.push(token);
        if self.faulty {
            return Err(DeviceFault::Queue {
                index: 0,
                source: QueueFault::Memory,
            });
        }
        Ok(())
    }
}

struct Bench {
    manager: EventManager<Adaptor<Device>>,
    transport: Arc<Mutex<MmioTransport<Device>>>,
    line: Arc<CountingLine>,
    memory: GuestRam,
    queue: MockQueue,
    backend: EventFd,
}

fn bench() -> Bench {
    let memory = guest_memory(0x10000);
    let line = CountingLine::shared();
    let backend = EventFd::new(EFD_NONBLOCK).unwrap();
    let device = Device {
        queue: None,
        backend: backend.try_clone().unwrap(),
        late: None,
        backend_calls: Vec::new(),
        faulty: false,
    };
    let transport = MmioTransport::new(
        device,
        memory.clone(),
        line.clone(),
        Box::new(MockDoorbells::default()),
    )
    .unwrap();
    let transport = Arc::new(Mutex::new(transport));
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Adaptor::new(transport.clone()));
    let queue = MockQueue::new(&memory, 0x1000, 8);
    Bench {
        manager,
        transport,
        line,
        memory,
        queue,
        backend,
    }
}

impl Bench {
    fn start(&mut self) {
        let status = MockDriver(&mut *self.transport.lock().unwrap()).start(0, &[&self.queue]);
        assert_eq!(status, status::ALL_STEPS);
    }

    fn ring(&self) {
        self.transport.lock().unwrap().queue_events()[0].write(1).unwrap();
    }

    /// Runs the loop until it would sleep, at most `most` rounds; returns the number of rounds.
    fn run(&mut self, most: usize) -> usize {
        (0..most)
            .find(|_| self.manager.run_with_timeout(0).unwrap() == 0)
            .unwrap_or(most)
    }

    fn backend_calls(&self) -> Vec<u32> {
        std::mem::take(&mut self.transport.lock().unwrap().device_mut().backend_calls)
    }
}

#[test]
fn a_doorbell_makes_the_device_serve_its_queue() {
    let mut bench = bench();
    bench.start();
    bench.run(10);
    let buffer = bench.queue.writable(4);
    bench.queue.add(&[buffer]);
    assert_eq!(bench.queue.used(), []);
    bench.ring();
    assert_eq!(bench.run(10), 1, "one wake-up, then the event is drained");
    assert_eq!(bench.queue.used().len(), 1);
    assert_eq!(bench.line.take(), 1);
}

#[test]
fn doorbells_of_an_inactive_device_do_nothing_and_do_not_storm() {
    let mut bench = bench();
    let buffer = bench.queue.writable(4);
    bench.queue.add(&[buffer]);
    bench.ring();
    assert!(bench.run(10) <= 1);
    assert_eq!(bench.queue.used(), []);
}

#[test]
fn the_backend_is_watched_between_driver_ok_and_reset_only() {
    let mut bench = bench();
    bench.backend.write(1).unwrap();
    assert_eq!(
        bench.run(5),
        0,
        "a readable backend of an inactive device wakes nobody"
    );
    bench.start();
    bench.run(5);
    let calls = bench.backend_calls();
    assert!(
        !calls.is_empty() && calls.iter().all(|token| *token == 7),
        "{calls:?}"
    );
    MockDriver(&mut *bench.transport.lock().unwrap()).write(offset::STATUS, 0);
    assert!(bench.run(10) <= 2);
    assert_eq!(bench.backend_calls(), [0; 0]);
    bench.start();
    bench.run(5);
    assert!(!bench.backend_calls().is_empty(), "watched again");
}

#[test]
fn a_fault_needs_a_reset_and_ends_the_events() {
    let mut bench = bench();
    bench.transport.lock().unwrap().device_mut().faulty = true;
    bench.start();
    bench.backend.write(1).unwrap();
    assert!(bench.run(10) <= 3);
    assert_eq!(bench.backend_calls(), [7]);
    assert_eq!(bench.line.take(), 1, "the driver is told once");
    let status = MockDriver(&mut *bench.transport.lock().unwrap()).status();
    assert_eq!(status, status::ALL_STEPS | status::NEEDS_RESET);
    bench.transport.lock().unwrap().device_mut().faulty = false;
    bench.queue = MockQueue::new(&bench.memory, 0x1000, 8);
    bench.start();
    bench.run(3);
    assert!(!bench.backend_calls().is_empty());
}

#[test]
fn an_event_that_appears_later_is_watched_once_the_transport_knows() {
    let mut bench = bench();
    bench.start();
    bench.run(5);
    let late = EventFd::new(EFD_NONBLOCK).unwrap();
    late.write(1).unwrap();
    {
        let mut transport = bench.transport.lock().unwrap();
        transport.device_mut().late = Some(late);
        transport.watch_changed();
    }
    bench.run(3);
    assert!(bench.backend_calls().contains(&8));
}
