//! A guest that writes nonsense to every register of every device, with nonsense in its rings.
//!
//! Each round runs from its own seed, so that a failure can be repeated.

#![allow(clippy::arithmetic_side_effects)]

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use vm_memory::{Bytes, GuestAddress};

use crate::legacy::{I8042, IoApic, MsiMessage, MsiRouter, Serial, SerialSink, Sleep};
use crate::rate_limiter::{BucketConfig, RateLimiter};
use crate::virtio::mmio::registers::{WINDOW_SIZE, offset, status};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{Buffer, CountingLine, MockDoorbells, MockDriver, MockQueue, guest_memory};
use crate::virtio::{Adaptor, MmioTransport, MmioWindow};
use crate::{Bus, BusDevice, GuestRam, Snapshot};

const MEMORY: usize = 0x2_0000;
const QUEUE: u64 = 0x1000;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    /// Numbers that break things: small, at the edges, or addresses in memory, rarely anything.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(16),
            1 => 1 << self.below(64),
            2 => u64::MAX - self.below(16),
            3 => (1 << self.below(64)) - 1,
            4 => self.below(MEMORY as u64) & !15,
            _ => self.next(),
        }
    }
}

/// Full after a while, and empty again.
struct MoodySink(u64);

impl SerialSink for MoodySink {
    fn write_ready(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = (self.0 + 1) % 5000;
        if self.0 > 2000 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(bytes.len())
        }
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

#[derive(Clone, Default)]
struct Router(Arc<Mutex<Vec<u32>>>);

impl MsiRouter for Router {
    fn route(&self, pin: u32, _message: Option<MsiMessage>) -> io::Result<()> {
        self.0.lock().unwrap().push(pin);
        Ok(())
    }
}

struct Machine {
    bus: Bus,
    ranges: Vec<(u64, u64)>,
    memory: GuestRam,
    manager: EventManager<Adaptor<Rng>>,
    transport: Arc<Mutex<MmioTransport<Rng>>>,
    serial: Arc<Mutex<Serial>>,
    i8042: Arc<Mutex<I8042>>,
    ioapic: Arc<Mutex<IoApic>>,
    router: Router,
}

const MMIO: u64 = 0xd000_0000;

fn machine() -> Machine {
    let memory = guest_memory(MEMORY);
    let line = CountingLine::shared();
    let ops = BucketConfig {
        size: 1_000_000,
        one_time_burst: 0,
        refill_time_ms: 1,
    };
    let rng = Rng::new(RateLimiter::new(None, Some(ops)).unwrap());
    let transport = MmioTransport::new(
        rng,
        memory.clone(),
        line.clone(),
        Box::new(MockDoorbells::default()),
    )
    .unwrap();
    let transport = Arc::new(Mutex::new(transport));
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Adaptor::new(transport.clone()));

    let serial = Arc::new(Mutex::new(
        Serial::new(line.clone(), Box::new(MoodySink(0))).unwrap(),
    ));
    let i8042 = Arc::new(Mutex::new(I8042::new(line, Arc::new(|| {}))));
    let router = Router::default();
    let ioapic = Arc::new(Mutex::new(IoApic::new(Box::new(router.clone()))));
    let ranges = vec![
        (0x3f8, Serial::LEN),
        (I8042::BASE, I8042::LEN),
        (0x600, Sleep::LEN),
        (IoApic::BASE, IoApic::LEN),
        (MMIO, WINDOW_SIZE),
    ];
    let devices: [Arc<Mutex<dyn BusDevice>>; 5] = [
        serial.clone(),
        i8042.clone(),
        Arc::new(Mutex::new(Sleep::new(Arc::new(|| {})))),
        ioapic.clone(),
        Arc::new(Mutex::new(MmioWindow::new(transport.clone()))),
    ];
    let mut bus = Bus::default();
    for ((base, len), device) in ranges.iter().zip(devices) {
        bus.insert(*base, *len, device).unwrap();
    }
    Machine {
        bus,
        ranges,
        memory,
        manager,
        transport,
        serial,
        i8042,
        ioapic,
        router,
    }
}

impl Machine {
    fn misbehave(&mut self, random: &mut Random) {
        match random.below(20) {
            0 => self.start_almost_right(random),
            1..=3 => self.scribble(random),
            4 | 5 => {
                self.manager.run_with_timeout(0).unwrap();
            }
            6 => {
                let _ = self.i8042.lock().unwrap().trigger_ctrl_alt_del();
                self.serial.lock().unwrap().enqueue(&[1, 2, 3]);
                self.ioapic
                    .lock()
                    .unwrap()
                    .accepted(u32::try_from(random.below(40)).unwrap());
            }
            7 => self.transport.lock().unwrap().config_changed(),
            8 => self.route(random),
            9 if random.one_in(8) => self.print(random),
            _ => self.access(random),
        }
    }

    /// Any size at any offset of any device; more often at registers, in their size, than in the void.
    fn access(&mut self, random: &mut Random) {
        let device = usize::try_from(random.below(5)).unwrap();
        let (base, len) = self.ranges[device];
        let (size, offset) = if random.one_in(4) {
            (1 << random.below(4), random.below(len + 8))
        } else if base == IoApic::BASE {
            (
                4,
                [0, 0, 0x10, 0x10, 0x40][usize::try_from(random.below(5)).unwrap()],
            )
        } else if base == MMIO {
            (4, random.below(0x110) & !3)
        } else {
            (1, random.below(len))
        };
        let address = base + offset;
        let mut data = random.value().to_le_bytes();
        if random.one_in(3) {
            self.bus.read(address, &mut data[..size]);
        } else {
            self.bus.write(address, &data[..size]);
        }
    }

    /// More output than the sink takes.
    fn print(&mut self, random: &mut Random) {
        self.bus.write(0x3fb, &[3]);
        for _ in 0..random.below(3000) {
            self.bus.write(0x3f8, b"x");
        }
    }

    /// A redirection entry that could be right.
    fn route(&mut self, random: &mut Random) {
        let register = 0x10 + 2 * u32::try_from(random.below(25)).unwrap();
        let entry = u32::try_from(random.below(1 << 17)).unwrap();
        self.bus.write(IoApic::BASE, &register.to_le_bytes());
        self.bus.write(IoApic::BASE + 0x10, &entry.to_le_bytes());
        self.ioapic
            .lock()
            .unwrap()
            .eoi(u8::try_from(entry & 0xff).unwrap());
    }

    /// A driver that initialises the device as it should, except for one register here and there.
    fn start_almost_right(&mut self, random: &mut Random) {
        let queue = MockQueue::new(&self.memory, QUEUE, 16);
        let mut window = MmioWindow::new(self.transport.clone());
        let mut driver = MockDriver(&mut window);
        if driver.negotiate(random.below(2) << 29) {
            driver.configure(0, &queue);
            if random.one_in(3) {
                driver.write(offset::QUEUE_READY, 0);
                driver.write(
                    random.below(0x40) * 4,
                    u32::try_from(random.value() & 0xffff_ffff).unwrap(),
                );
                driver.write(offset::QUEUE_READY, 1);
            }
            driver.add_status(status::DRIVER_OK);
        }
        self.request(queue, random);
    }

    /// Chains that are right, but for a descriptor here and there.
    fn request(&mut self, mut queue: MockQueue, random: &mut Random) {
        for _ in 0..random.below(6) {
            let buffers: Vec<_> = (0..1 + random.below(4))
                .map(|_| Buffer {
                    address: if random.one_in(4) {
                        random.value()
                    } else {
                        0x8000 + random.below(0x1000)
                    },
                    len: u32::try_from(if random.one_in(4) {
                        random.value() & 0xffff_ffff
                    } else {
                        100
                    })
                    .unwrap(),
                    writable: !random.one_in(4),
                })
                .collect();
            if random.one_in(2) {
                queue.add(&buffers);
            } else {
                queue.add_indirect(&buffers);
            }
        }
        self.bus.write(MMIO + 0x50, &[0; 4]);
    }

    /// Descriptors and rings of nonsense, the more so where the queue is.
    fn scribble(&mut self, random: &mut Random) {
        for _ in 0..random.below(40) {
            let address = if random.one_in(4) {
                random.below(MEMORY as u64 - 8)
            } else {
                QUEUE + random.below(0x1c0)
            };
            let value = random.value().to_le_bytes();
            let len = usize::try_from(1 + random.below(8)).unwrap();
            self.memory
                .write_slice(&value[..len], GuestAddress(address))
                .unwrap();
        }
        self.bus.write(
            MMIO + 0x50,
            &u32::try_from(random.below(3)).unwrap().to_le_bytes(),
        );
        if random.one_in(4) {
            // A plausible available index, so that chains of nonsense are really looked at.
            let index = u16::try_from(random.below(16)).unwrap();
            let avail = QUEUE + 16 * 16 + 2;
            self.memory.write_obj(index, GuestAddress(avail)).unwrap();
        }
    }

    /// Nothing has grown beyond its bound.
    fn check_bounds(&self) {
        assert!(self.i8042.lock().unwrap().save().keyboard.buffer.len() <= 16);
        assert!(self.serial.lock().unwrap().save().input.len() <= 64);
        assert_eq!(self.ioapic.lock().unwrap().save().entries.len(), 24);
        assert_eq!(self.transport.lock().unwrap().save().queues.len(), 1);
    }

    /// What it looks like to a guest that behaves, right after.
    fn check_health(&mut self) {
        self.bus.write(MMIO + offset::STATUS, &[0; 4]);
        let mut queue = MockQueue::new(&self.memory, QUEUE, 16);
        let mut window = MmioWindow::new(self.transport.clone());
        assert_eq!(MockDriver(&mut window).start(0, &[&queue]), status::ALL_STEPS);
        let buffer = queue.writable(64);
        queue.add(&[buffer]);
        self.bus.write(MMIO + 0x50, &[0; 4]);
        for _ in 0..10 {
            self.manager.run_with_timeout(0).unwrap();
        }
        assert_eq!(queue.used().iter().map(|used| used.len).collect::<Vec<_>>(), [64]);

        // Serial: no divisor latch, no loop; then a byte of input arrives.
        self.bus.write(0x3fb, &[3]);
        self.bus.write(0x3fc, &[8]);
        let mut byte = [0];
        for _ in 0..64 {
            self.bus.read(0x3f8, &mut byte);
        }
        assert_eq!(self.serial.lock().unwrap().enqueue(b"k"), 1);
        self.bus.read(0x3f8, &mut byte);
        assert_eq!(byte, *b"k");

        // Keyboard controller: self test.
        self.bus.write(0x64, &[0xaa]);
        self.bus.read(0x60, &mut byte);
        assert_eq!(byte, [0x55]);

        // I/O APIC: a masked pin becomes a route.
        let set = |value: u32| {
            self.bus.write(IoApic::BASE, &0x12_u32.to_le_bytes());
            self.bus.write(IoApic::BASE + 0x10, &value.to_le_bytes());
        };
        set(0x1_0000);
        self.router.0.lock().unwrap().clear();
        set(0x31);
        assert_eq!(*self.router.0.lock().unwrap(), [1]);
    }
}

#[test]
fn devices_survive_a_guest_that_writes_nonsense_and_work_after_a_reset() {
    for seed in 0..40 {
        let mut machine = machine();
        let mut random = Random(seed);
        let steps = 3000;
        for _ in 0..steps {
            machine.misbehave(&mut random);
        }
        machine.check_bounds();
        let served = machine.manager.run_with_timeout(0).is_ok();
        assert!(served, "seed {seed}");
        machine.check_health();
    }
}

#[test]
fn a_state_saved_after_nonsense_can_be_restored() {
    for seed in 100..120 {
        let mut original = machine();
        let mut random = Random(seed);
        for _ in 0..500 {
            original.misbehave(&mut random);
        }
        let mut copy = machine();
        // The guest's memory goes along.
        let mut bytes = vec![0; MEMORY];
        original.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        copy.memory.write_slice(&bytes, GuestAddress(0)).unwrap();
        let state = original.transport.lock().unwrap().save();
        copy.transport.lock().unwrap().restore(&state).unwrap();
        let state = original.serial.lock().unwrap().save();
        copy.serial.lock().unwrap().restore(&state).unwrap();
        let state = original.i8042.lock().unwrap().save();
        copy.i8042.lock().unwrap().restore(&state).unwrap();
        let state = original.ioapic.lock().unwrap().save();
        copy.ioapic.lock().unwrap().restore(&state).unwrap();
        for _ in 0..500 {
            copy.misbehave(&mut random);
        }
        copy.check_health();
    }
}
