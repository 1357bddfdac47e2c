//! Requests in flight: who owns what, and what a reset does to them.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::virtio::block::{Done, GuestBuffers, Job, Operation};
use crate::virtio::queue::QueueMemory;

/// A backend that finishes nothing until it is told to.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<Job>>>, Arc<AtomicBool>);

impl BlockBackend for Held {
    fn sectors(&self) -> u64 {
        SECTORS
    }
    fn read_only(&self) -> bool {
        false
    }
    fn submit(&mut self, job: Job) -> Option<Done> {
        self.0.lock().unwrap().push(job);
        None
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&mut self, _: u64, _: u64, _: bool, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn asynchronous(&self) -> bool {
        true
    }
    fn connect(&mut self, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
    fn reap(&mut self) -> Option<Done> {
        if !self.1.load(Ordering::SeqCst) {
            return None;
        }
        // The last one first: nobody promised an order.
        let Job {
            tag,
            operation,
            mut buffers,
            ..
        } = self.0.lock().unwrap().pop()?;
        if operation == Operation::Read {
            let len = usize::try_from(buffers.remaining()).unwrap();
            buffers.write(&vec![0x3c; len]).unwrap();
        }
        Some(Done {
            tag,
            result: Ok(()),
            buffers,
        })
    }
    fn wait(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

fn held() -> (Machine, Held) {
    let backend = Held::default();
    let machine = Machine::with_backend(Options::default(), Box::new(backend.clone()), disk_file(SECTORS));
    (machine, backend)
}

#[test]
fn requests_come_back_in_the_order_of_their_end_each_with_its_own_status() {
    let (mut machine, backend) = held();
    let rooms: Vec<_> = (0..3).map(|_| machine.queue.writable(513)).collect();
    let heads: Vec<_> = rooms
        .iter()
        .map(|room| {
            let head = machine.queue.readable(&header(IN, 0));
            machine.queue.add(&[head, *room])
        })
        .collect();
    machine.block.process_queue(0).unwrap();
    assert!(machine.queue.used().is_empty());
    assert_eq!(machine.line.take(), 0);
    backend.1.store(true, Ordering::SeqCst);
    machine.block.process_backend(1, EventSet::IN).unwrap();
    let used: Vec<_> = machine
        .queue
        .used()
        .iter()
        .map(|used| (used.head, used.len))
        .collect();
    assert_eq!(used, [(heads[2], 513), (heads[1], 513), (heads[0], 513)]);
    assert_eq!(machine.line.take(), 1);
    for room in rooms {
        assert_eq!(machine.queue.contents(room), [vec![0x3c; 512], vec![OK]].concat());
    }
}

#[test]
fn no_more_than_a_queue_of_requests_is_in_flight_though_the_guest_repeats_its_chains() {
    let (mut machine, backend) = held();
    let head = machine.queue.readable(&header(IN, 0));
    let room = machine.queue.writable(513);
    let chain = machine.queue.add(&[head, room]);
    (0..255).for_each(|_| machine.queue.publish(chain));
    machine.block.process_queue(0).unwrap();
    (0..200).for_each(|_| machine.queue.publish(chain));
    machine.block.process_queue(0).unwrap();
    assert_eq!(backend.0.lock().unwrap().len(), 256);
    assert_eq!(machine.block.metrics().io_engine_throttled_events, 1);
    machine.block.quiesce().unwrap();
    machine.block.process_backend(1, EventSet::IN).unwrap();
    assert_eq!(machine.queue.used().len(), 456);
}

#[test]
fn a_reset_waits_and_the_next_driver_hears_nothing_of_the_old_requests() {
    let (mut machine, backend) = held();
    let head = machine.queue.readable(&header(IN, 0));
    let room = machine.queue.writable(513);
    machine.queue.add(&[head, room]);
    machine.block.process_queue(0).unwrap();
    machine.block.reset();
    assert!(
        backend.0.lock().unwrap().is_empty(),
        "nothing is in flight after a reset"
    );
    machine.queue = MockQueue::new(&machine.memory, QUEUE_BASE, 256);
    machine.activate(0);
    machine.block.process_backend(1, EventSet::IN).unwrap();
    assert_eq!(machine.queue.used_index(), 0);
    assert_eq!(machine.read(0, 512).status(), OK);
}

#[test]
fn a_new_file_gets_no_requests_that_were_meant_for_the_old_one() {
    let (mut machine, backend) = held();
    let head = machine.queue.readable(&header(IN, 0));
    let room = machine.queue.writable(513);
    machine.queue.add(&[head, room]);
    machine.block.process_queue(0).unwrap();
    let path = machine.path();
    machine
        .block
        .replace_backend(Engine::Async.open(&path, false))
        .unwrap();
    assert!(backend.0.lock().unwrap().is_empty());
    assert_eq!(machine.queue.contents(room)[..512], [0x3c; 512]);
    assert_eq!(machine.queue.used().len(), 1);
    assert_eq!(machine.read(1, 512).data(), pattern_at(512, 512));
}

#[test]
fn guest_memory_stays_mapped_until_the_kernel_is_done_with_it() {
    let file = disk_file(SECTORS);
    let mut backend = UringBackend::open(file.as_path(), false).unwrap();
    let memory = Arc::new(QueueMemory::new(guest_memory(MEMORY)));
    let weak = Arc::downgrade(&memory);
    let mut buffers = GuestBuffers::default();
    buffers.begin(&memory);
    buffers
        .push(
            GuestAddress(0),
            4096,
            crate::virtio::block::buffers::Access::Write,
        )
        .unwrap();
    drop(memory);
    let job = Job {
        tag: 0,
        operation: Operation::Read,
        offset: 0,
        buffers,
    };
    assert!(backend.submit(job).is_none());
    backend.start().unwrap();
    assert!(weak.upgrade().is_some());
    backend.wait();
    let done = backend.reap().unwrap();
    assert!(done.result.is_ok());
    assert_eq!(done.buffers.remaining(), 0);
    drop(done);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_backend_that_is_dropped_waits_for_its_requests() {
    let file = disk_file(SECTORS);
    let memory = Arc::new(QueueMemory::new(guest_memory(MEMORY)));
    let mut backend = UringBackend::open(file.as_path(), false).unwrap();
    for tag in 0..200 {
        let mut buffers = GuestBuffers::default();
        buffers.begin(&memory);
        let address = GuestAddress(u64::from(tag) * 4096);
        buffers
            .push(address, 4096, crate::virtio::block::buffers::Access::Write)
            .unwrap();
        assert!(
            backend
                .submit(Job {
                    tag,
                    operation: Operation::Read,
                    offset: 0,
                    buffers
                })
                .is_none()
        );
    }
    drop(backend);
    assert_eq!(Arc::strong_count(&memory), 1);
    let mut last = vec![0; 4096];
    memory.read(&mut last, GuestAddress(199 * 4096)).unwrap();
    assert_eq!(last, pattern_at(0, 4096));
}

#[test]
fn a_tag_in_use_is_refused_and_the_first_request_stays() {
    let file = disk_file(SECTORS);
    let memory = Arc::new(QueueMemory::new(guest_memory(MEMORY)));
    let mut backend = UringBackend::open(file.as_path(), false).unwrap();
    let job = || {
        let mut buffers = GuestBuffers::default();
        buffers.begin(&memory);
        buffers
            .push(GuestAddress(0), 512, crate::virtio::block::buffers::Access::Write)
            .unwrap();
        Job {
            tag: 3,
            operation: Operation::Read,
            offset: 0,
            buffers,
        }
    };
    assert!(backend.submit(job()).is_none());
    assert!(backend.submit(job()).unwrap().result.is_err());
    backend.wait();
    assert!(backend.reap().unwrap().result.is_ok());
    assert!(backend.reap().is_none());
}

#[test]
fn a_synchronous_drive_sets_nothing_up_that_it_does_not_need() {
    let machine = Machine::with_engine(Engine::Sync);
    assert!(machine.block.backend_events().is_empty());
    let machine = Machine::with_engine(Engine::Async);
    assert_eq!(machine.block.backend_events().len(), 1);
}

#[test]
fn a_drive_whose_driver_does_not_flush_writes_through() {
    for cache in [CacheMode::Unsafe, CacheMode::Writeback] {
        for refused_features in [0, features::F_FLUSH] {
            let backend = Held::default();
            let config = BlockConfig {
                cache,
                ..Default::default()
            };
            let options = Options {
                config,
                refused_features,
                ..Default::default()
            };
            let mut machine = Machine::with_backend(options, Box::new(backend.clone()), disk_file(1));
            let buffers = [
                machine.queue.readable(&[header(OUT, 0), vec![1; 512]].concat()),
                machine.queue.writable(1),
            ];
            machine.queue.add(&buffers);
            machine.block.process_queue(0).unwrap();
            let durable = cache == CacheMode::Writeback && refused_features != 0;
            assert_eq!(
                backend.0.lock().unwrap()[0].operation,
                Operation::Write { durable }
            );
        }
    }
    for engine in ENGINES {
        let options = Options {
            engine,
            refused_features: features::F_FLUSH,
            ..Default::default()
        };
        let mut machine = Machine::new(options);
        assert_eq!(machine.write(1, &[4; 512]).status(), OK);
        assert_eq!(machine.request(WRITE_ZEROES, 0, &range(2, 1, 0), 0).status(), OK);
        assert_eq!(machine.disk(512, 512), [4; 512]);
    }
}
