//! The disk behind its registers, on an event loop, as a guest meets it.

use std::sync::Mutex;

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::bus::BusDevice;
use crate::rate_limiter::{BucketConfig, BucketUpdate};
use crate::state::Snapshot;
use crate::virtio::adaptor::Adaptor;
use crate::virtio::mmio::registers::{QUEUE_NOTIFY, offset};
use crate::virtio::mmio::{MmioTransport, MmioWindow};
use crate::virtio::testing::{MockDoorbells, MockDriver};

struct Vm {
    transport: Arc<Mutex<MmioTransport<Block>>>,
    window: MmioWindow<Block>,
    events: EventManager<Adaptor<Block>>,
    queue: MockQueue,
    line: Arc<CountingLine>,
    memory: GuestRam,
    file: TempFile,
}

fn transport(
    engine: Engine,
    path: &Path,
    memory: &GuestRam,
    line: &Arc<CountingLine>,
) -> MmioTransport<Block> {
    let config = BlockConfig {
        id: "rootfs".into(),
        cache: CacheMode::Writeback,
        ..Default::default()
    };
    let block = Block::new(config, engine.open(path, false)).unwrap();
    MmioTransport::new(
        block,
        memory.clone(),
        line.clone(),
        Box::new(MockDoorbells::default()),
    )
    .unwrap()
}

impl Vm {
    fn new(engine: Engine) -> Self {
        let (memory, line, file) = (guest_memory(MEMORY), CountingLine::shared(), disk_file(SECTORS));
        let transport = transport(engine, file.as_path(), &memory, &line);
        let mut vm = Self::with(transport, memory, line, file);
        vm.boot();
        vm
    }

    fn with(
        transport: MmioTransport<Block>,
        memory: GuestRam,
        line: Arc<CountingLine>,
        file: TempFile,
    ) -> Self {
        let transport = Arc::new(Mutex::new(transport));
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(Adaptor::new(transport.clone()));
        let window = MmioWindow::new(transport.clone());
        let queue = MockQueue::new(&memory, QUEUE_BASE, 256);
        Self {
            transport,
            window,
            events,
            queue,
            line,
            memory,
            file,
        }
    }

    fn boot(&mut self) {
        self.queue = MockQueue::new(&self.memory, QUEUE_BASE, 256);
        let offered = MockDriver(&mut self.window).offered() & !features::F_EVENT_IDX;
        let status = MockDriver(&mut self.window).start(offered, &[&self.queue]);
        assert_eq!(status, 0xf);
    }

    fn notify(&mut self) {
        self.window.write(QUEUE_NOTIFY, &0_u32.to_le_bytes());
    }

    fn run_until_used(&mut self, count: usize) {
        let mut used = 0;
        while used < count {
            self.events.run_with_timeout(10_000).unwrap();
            used += self.queue.used().len();
        }
    }

    fn read(&mut self, sector: u64) -> Vec<u8> {
        let room = self.queue.writable(513);
        let head = self.queue.readable(&header(IN, sector));
        self.queue.add(&[head, room]);
        self.notify();
        self.run_until_used(1);
        self.queue.contents(room)
    }
}

fn ok(sector: u64) -> Vec<u8> {
    [pattern_at(sector * 512, 512), vec![OK]].concat()
}

#[test]
fn a_guest_reads_its_disk_through_registers_and_events() {
    for engine in ENGINES {
        let mut vm = Vm::new(engine);
        assert_eq!(MockDriver(&mut vm.window).read(offset::DEVICE_ID), 2);
        assert_eq!(vm.read(3), ok(3));
        assert_eq!(vm.line.take(), 1);
        assert_eq!(MockDriver(&mut vm.window).read(offset::INTERRUPT_STATUS), 1);
    }
}

#[test]
fn a_guest_is_told_of_the_size_of_a_new_file() {
    for engine in ENGINES {
        let mut vm = Vm::new(engine);
        let generation = MockDriver(&mut vm.window).read(offset::CONFIG_GENERATION);
        let other = disk_file(2 * SECTORS);
        let mut transport = vm.transport.lock().unwrap();
        transport
            .device_mut()
            .replace_backend(engine.open(other.as_path(), false))
            .unwrap();
        transport.config_changed();
        drop(transport);
        assert_eq!(vm.line.take(), 1);
        let mut driver = MockDriver(&mut vm.window);
        assert_eq!(driver.read(offset::INTERRUPT_STATUS), 2);
        assert_ne!(driver.read(offset::CONFIG_GENERATION), generation);
        assert_eq!(driver.read(0x100), 2 * SECTORS as u32);
        assert_eq!(vm.read(2 * SECTORS - 1), ok(2 * SECTORS - 1));
    }
}

#[test]
fn a_reset_in_the_middle_of_requests_leaves_a_disk_that_works() {
    for engine in ENGINES {
        let mut vm = Vm::new(engine);
        for _ in 0..20 {
            for sector in 0..64 {
                let head = vm.queue.readable(&header(IN, sector));
                let room = vm.queue.writable(513);
                vm.queue.add(&[head, room]);
            }
            vm.notify();
            // One round of the loop only: asynchronous requests are still in flight.
            vm.events.run_with_timeout(0).unwrap();
            MockDriver(&mut vm.window).write(offset::STATUS, 0);
            vm.boot();
            let used = vm.queue.used_index();
            vm.events.run_with_timeout(0).unwrap();
            assert_eq!(
                vm.queue.used_index(),
                used,
                "the new driver hears of the old requests"
            );
        }
        assert_eq!(vm.read(5), ok(5));
    }
}

#[test]
fn a_saved_guest_goes_on_with_another_process_and_engine() {
    for (before, after) in [
        (Engine::Sync, Engine::Sync),
        (Engine::Async, Engine::Async),
        (Engine::Async, Engine::Sync),
    ] {
        let mut vm = Vm::new(before);
        assert_eq!(vm.read(1), ok(1));
        // Rung for, but not looked at when it is saved.
        let room = vm.queue.writable(513);
        let head = vm.queue.readable(&header(IN, 9));
        vm.queue.add(&[head, room]);
        vm.notify();
        let mut saved = vm.transport.lock().unwrap();
        saved.quiesce();
        let state = serde_json::to_string(&saved.save()).unwrap();
        drop(saved);

        let mut restored = transport(after, vm.file.as_path(), &vm.memory, &vm.line);
        restored.restore(&serde_json::from_str(&state).unwrap()).unwrap();
        let Vm {
            queue,
            memory,
            line,
            file,
            ..
        } = vm;
        let transport = Arc::new(Mutex::new(restored));
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(Adaptor::new(transport.clone()));
        let window = MmioWindow::new(transport.clone());
        let mut vm = Vm {
            transport,
            window,
            events,
            queue,
            line,
            memory,
            file,
        };
        vm.run_until_used(1);
        assert_eq!(vm.queue.contents(room), ok(9));
        assert_eq!(vm.read(2), ok(2));
    }
}

#[test]
fn a_limit_that_is_set_while_the_guest_runs_is_watched() {
    for engine in ENGINES {
        let mut vm = Vm::new(engine);
        let limit = BucketConfig {
            size: 1,
            one_time_burst: 0,
            refill_time_ms: 50,
        };
        let mut transport = vm.transport.lock().unwrap();
        transport
            .device_mut()
            .update_rate_limiter(BucketUpdate::Keep, BucketUpdate::Replace(limit))
            .unwrap();
        transport.watch_changed();
        drop(transport);
        for sector in 0..3 {
            assert_eq!(vm.read(sector), ok(sector));
        }
        let mut transport = vm.transport.lock().unwrap();
        assert!(transport.device_mut().metrics().rate_limiter_throttled_events >= 2);
    }
}
