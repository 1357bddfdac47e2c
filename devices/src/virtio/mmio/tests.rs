#![allow(clippy::arithmetic_side_effects)]

use std::sync::Mutex;

use super::registers::{QUEUE_NOTIFY, offset, status};
use super::*;
use crate::bus::Bus;
use crate::rate_limiter::RateLimiter;
use crate::state::Snapshot;
use crate::virtio::queue::{ActiveQueue, QueuePosition, Step};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{CountingLine, MockDoorbells, MockDriver, MockQueue, guest_memory};
use crate::virtio::{Activation, QueueFault};
use crate::{GuestRam, RestoreError};

/// A device with two queues that answers each request with its length, and eight bytes of configuration.
#[derive(Default)]
struct Probe {
    active: Option<Activation>,
    config: [u8; 8],
    resets: u32,
    refuse: bool,
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        42
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[16, 4]
    }
    fn features(&self) -> u64 {
        F_EVENT_IDX | 1 << 40 | 1
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        if let Some(target) = self.config.get_mut(offset..offset + data.len()) {
            target.copy_from_slice(data);
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if self.refuse || !activation.queues[0].ready() {
            return Err(ActivateError::QueueMissing(0));
        }
        self.active = Some(activation);
        Ok(())
    }
    fn reset(&mut self) {
        self.active = None;
        self.resets += 1;
    }
    fn process_queue(&mut self, index: usize) -> Result<(), DeviceFault> {
        let queue = &mut self.active.as_mut().unwrap().queues[index];
        let answer = |chain: crate::virtio::Chain<'_>| Step::Used(chain.map(|part| part.len()).sum());
        queue
            .drain(answer)
            .map(drop)
            .map_err(|source| DeviceFault::Queue { index, source })
    }
    fn queue_positions(&self) -> Vec<QueuePosition> {
        self.active
            .iter()
            .flat_map(|active| active.queues.iter().map(ActiveQueue::position))
            .collect()
    }
}

impl Snapshot for Probe {
    type State = [u8; 8];
    fn save(&self) -> [u8; 8] {
        self.config
    }
    fn restore(&mut self, state: &[u8; 8]) -> Result<(), RestoreError> {
        self.config = *state;
        Ok(())
    }
}

struct Bench {
    transport: MmioTransport<Probe>,
    line: Arc<CountingLine>,
    doorbells: MockDoorbells,
    memory: GuestRam,
    queue: MockQueue,
}

fn bench() -> Bench {
    bench_in(guest_memory(0x20000))
}

fn bench_in(memory: GuestRam) -> Bench {
    let (line, doorbells) = (CountingLine::shared(), MockDoorbells::default());
    let transport = MmioTransport::new(
        Probe::default(),
        memory.clone(),
        line.clone(),
        Box::new(doorbells.clone()),
    )
    .unwrap();
    let queue = MockQueue::new(&memory, 0x1000, 8);
    Bench {
        transport,
        line,
        doorbells,
        memory,
        queue,
    }
}

impl Bench {
    fn driver(&mut self) -> MockDriver<'_> {
        MockDriver(&mut self.transport)
    }

    fn start(&mut self) -> u32 {
        MockDriver(&mut self.transport).start(1, &[&self.queue])
    }
}

#[test]
fn a_driver_finds_the_device_and_what_it_offers() {
    let mut bench = bench();
    let mut driver = bench.driver();
    assert_eq!(driver.read(offset::MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(driver.read(offset::VERSION), 2);
    assert_eq!(driver.read(offset::DEVICE_ID), 42);
    assert_eq!(driver.offered(), F_VERSION_1 | F_EVENT_IDX | 1 << 40 | 1);
    driver.write(offset::DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(offset::DEVICE_FEATURES), 0);
    for (select, expected) in [(0, 16), (1, 4), (2, 0), (u32::MAX, 0)] {
        driver.write(offset::QUEUE_SEL, select);
        assert_eq!(driver.read(offset::QUEUE_NUM_MAX), expected);
    }
    driver.write(offset::SHM_SEL, 0);
    assert_eq!(driver.read(offset::SHM_LEN_LOW), u32::MAX);
}

#[test]
fn the_device_gets_its_queues_at_driver_ok_and_loses_them_at_reset() {
    let mut bench = bench();
    assert_eq!(bench.start(), status::ALL_STEPS);
    assert!(bench.transport.is_active());
    assert_eq!(bench.doorbells.attached(), [0]);
    let active = bench.transport.device().active.as_ref().unwrap();
    assert_eq!(active.features, F_VERSION_1 | 1);
    assert_eq!(
        active.queues.iter().map(ActiveQueue::ready).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(active.queues[0].size(), 8);

    bench.driver().write(offset::STATUS, 0);
    assert_eq!(bench.driver().status(), 0);
    assert!(!bench.transport.is_active());
    assert_eq!(bench.transport.device().resets, 1);
    assert_eq!(bench.doorbells.attached(), [0; 0]);
    bench.driver().write(offset::QUEUE_SEL, 0);
    assert_eq!(bench.driver().read(offset::QUEUE_READY), 0);
    assert_eq!(bench.start(), status::ALL_STEPS, "it starts again");
}

#[test]
fn features_that_were_not_offered_or_a_legacy_driver_are_refused() {
    for (features, accepted) in [
        (F_VERSION_1, true),
        (F_VERSION_1 | 1, true),
        (1, false),
        (F_VERSION_1 | 2, false),
        (u64::MAX, false),
    ] {
        let mut bench = bench();
        let mut driver = bench.driver();
        driver.write(offset::STATUS, status::ACKNOWLEDGE);
        driver.write(offset::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        driver.choose(features);
        let agreed = driver.add_status(status::FEATURES_OK) & status::FEATURES_OK != 0;
        assert_eq!(agreed, accepted, "{features:#x}");
        if !accepted {
            // The driver may think again.
            driver.choose(F_VERSION_1);
            assert_ne!(driver.add_status(status::FEATURES_OK) & status::FEATURES_OK, 0);
        }
    }
}

#[test]
fn the_steps_of_initialisation_cannot_be_skipped_or_taken_back() {
    use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};
    for refused in [
        DRIVER,
        FEATURES_OK,
        DRIVER_OK,
        NEEDS_RESET,
        16,
        ACKNOWLEDGE | 1 << 31,
    ] {
        let mut bench = bench();
        bench.driver().write(offset::STATUS, refused);
        assert_eq!(bench.driver().status(), 0, "{refused}");
    }
    let mut bench = bench();
    bench.start();
    bench.driver().write(offset::STATUS, ACKNOWLEDGE);
    assert_eq!(bench.driver().status(), status::ALL_STEPS);
    assert!(bench.transport.is_active());
    assert_eq!(bench.driver().add_status(FAILED), status::ALL_STEPS | FAILED);
    assert!(
        !bench.transport.is_active(),
        "a driver that gave up is not served"
    );
    bench.driver().write(offset::STATUS, 0);
    assert_eq!(bench.start(), status::ALL_STEPS);
}

#[test]
fn configuration_is_frozen_once_it_is_used() {
    let mut bench = bench();
    let before_features = {
        let mut driver = bench.driver();
        driver.write(offset::STATUS, 1);
        driver.write(offset::STATUS, 3);
        driver.write(offset::QUEUE_NUM, 4);
        driver.write(offset::QUEUE_READY, 1);
        driver.read(offset::QUEUE_READY)
    };
    assert_eq!(before_features, 0, "queues are closed before FEATURES_OK");
    bench.start();
    let registers = bench.transport.registers.clone();
    let mut driver = bench.driver();
    driver.choose(0);
    for offset in (offset::QUEUE_NUM..=offset::QUEUE_DEVICE_HIGH).step_by(4) {
        if ![offset::STATUS, QUEUE_NOTIFY].contains(&offset) {
            driver.write(offset, 2);
        }
    }
    driver.write(offset::QUEUE_READY, 0);
    bench.transport.registers.driver_features_select = registers.driver_features_select;
    assert_eq!(bench.transport.registers, registers);
    assert_eq!(
        bench.transport.device().active.as_ref().unwrap().queues[0].size(),
        8
    );
    assert!(bench.transport.take_metrics().cfg_fails > 10);
}

#[test]
fn an_enabled_queue_is_closed_until_it_is_disabled() {
    let mut bench = bench();
    let mut driver = MockDriver(&mut bench.transport);
    driver.negotiate(0);
    driver.configure(0, &bench.queue);
    driver.write(offset::QUEUE_NUM, 16);
    assert_eq!(bench.transport.registers.queues[0].size, 8);
    let mut driver = bench.driver();
    driver.write(offset::QUEUE_READY, 0);
    driver.write(offset::QUEUE_NUM, 16);
    driver.write(offset::QUEUE_READY, 1);
    assert_eq!(driver.read(offset::QUEUE_READY), 1);
    assert_eq!(bench.transport.registers.queues[0].size, 16);
}

#[test]
fn a_queue_with_an_impossible_size_cannot_be_enabled() {
    for size in [0, 3, 32, 0x1_0008, u32::MAX] {
        let mut bench = bench();
        let mut driver = MockDriver(&mut bench.transport);
        driver.negotiate(0);
        driver.configure(0, &bench.queue);
        driver.write(offset::QUEUE_READY, 0);
        driver.write(offset::QUEUE_NUM, size);
        driver.write(offset::QUEUE_READY, 1);
        assert_eq!(driver.read(offset::QUEUE_READY), 0, "{size}");
        assert_eq!(
            driver.add_status(status::DRIVER_OK),
            status::ALL_STEPS | status::NEEDS_RESET
        );
    }
}

#[test]
fn rings_outside_memory_or_misaligned_need_a_reset() {
    for (register, value) in [
        (offset::QUEUE_DESC_LOW, 0x1008),
        (offset::QUEUE_DESC_HIGH, u32::MAX),
        (offset::QUEUE_DRIVER_LOW, 0x1001),
        (offset::QUEUE_DRIVER_LOW, 0x1fffe),
        (offset::QUEUE_DRIVER_LOW, 0),
        (offset::QUEUE_DEVICE_LOW, 0x1002),
        (offset::QUEUE_DEVICE_HIGH, 1),
    ] {
        let mut bench = bench();
        let mut driver = MockDriver(&mut bench.transport);
        driver.negotiate(0);
        driver.configure(0, &bench.queue);
        driver.write(offset::QUEUE_READY, 0);
        driver.write(register, value);
        driver.write(offset::QUEUE_READY, 1);
        let status = driver.add_status(status::DRIVER_OK);
        assert_eq!(
            status,
            status::ALL_STEPS | status::NEEDS_RESET,
            "{register:#x} {value:#x}"
        );
        assert_eq!(driver.read(offset::INTERRUPT_STATUS), interrupt::CONFIG_CHANGE);
        assert!(!bench.transport.is_active());
        assert_eq!(bench.line.take(), 1);
        assert_eq!(bench.start(), status::ALL_STEPS, "a reset heals it");
    }
}

#[test]
fn a_device_that_refuses_to_start_needs_a_reset_and_says_why() {
    let mut bench = bench();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = heard.clone();
    bench.transport.on_fault(Box::new(move |error| {
        listener.lock().unwrap().push(error.to_string())
    }));
    bench.transport.device_mut().refuse = true;
    assert_eq!(bench.start(), status::ALL_STEPS | status::NEEDS_RESET);
    assert_eq!(*heard.lock().unwrap(), ["the device does not start"]);
    assert_eq!(bench.transport.take_metrics().activate_fails, 1);
    assert_eq!(bench.doorbells.attached(), [0; 0]);
}

#[test]
fn used_buffers_and_configuration_changes_interrupt_until_acknowledged() {
    let mut bench = bench();
    bench.transport.config_changed();
    assert_eq!(bench.line.take(), 0, "no driver, no interrupt");
    bench.start();
    let buffer = bench.queue.writable(100);
    let head = bench.queue.add(&[buffer]);
    bench.transport.process_queue(0);
    assert_eq!(bench.queue.used()[0].head, head);
    assert_eq!(bench.line.take(), 1);
    let generation = bench.driver().read(offset::CONFIG_GENERATION);
    bench.transport.config_changed();
    assert_eq!(bench.line.take(), 1);
    let mut driver = bench.driver();
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 3);
    assert_eq!(driver.read(offset::CONFIG_GENERATION), generation + 1);
    driver.write(offset::INTERRUPT_ACK, 1);
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 2);
    driver.write(offset::INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
}

#[test]
fn a_device_fault_stops_the_device_and_tells_the_driver() {
    let mut bench = bench();
    bench.start();
    bench.queue.set_avail_index(9);
    bench.transport.process_queue(0);
    assert!(!bench.transport.is_active());
    assert_eq!(bench.line.take(), 1);
    assert_eq!(bench.driver().status(), status::ALL_STEPS | status::NEEDS_RESET);
    assert_eq!(bench.transport.take_metrics().event_fails, 1);
    bench.transport.process_queue(0);
    assert_eq!(bench.line.take(), 0, "it stays silent until the reset");
    bench.queue = MockQueue::new(&bench.memory, 0x1000, 8);
    assert_eq!(bench.start(), status::ALL_STEPS);
}

#[test]
fn a_doorbell_written_on_the_bus_signals_the_event_of_its_queue() {
    let mut bench = bench();
    bench.start();
    let events = bench.transport.queue_events().to_vec();
    bench.driver().write(QUEUE_NOTIFY, 1);
    bench.driver().write(QUEUE_NOTIFY, 2);
    assert!(events[0].read().is_err());
    assert_eq!(events[1].read().unwrap(), 1);
}

#[test]
fn a_change_while_the_driver_starts_is_told_when_it_is_ready() {
    let mut bench = bench();
    bench.transport.config_changed();
    let queue = MockQueue::new(&bench.memory, 0x1000, 8);
    for changed in [false, true] {
        let mut driver = bench.driver();
        assert!(driver.negotiate(1), "resets, so the first change is no news");
        driver.configure(0, &queue);
        if changed {
            bench.transport.config_changed();
        }
        assert_eq!(bench.line.take(), 0);
        bench.driver().add_status(status::DRIVER_OK);
        assert_eq!(bench.line.take(), u64::from(changed));
        let expected = if changed { interrupt::CONFIG_CHANGE } else { 0 };
        assert_eq!(bench.driver().read(offset::INTERRUPT_STATUS), expected);
    }
}

#[test]
fn the_configuration_space_takes_every_access_size() {
    let mut bench = bench();
    bench.transport.write(0x100, &[7; 8]);
    assert_eq!(bench.transport.device().config, [0; 8], "closed before DRIVER");
    bench.start();
    bench.transport.write(0x100, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for (offset, len) in [(0x100, 1), (0x101, 2), (0x102, 4), (0x100, 8)] {
        let mut data = vec![0; len];
        bench.transport.read(offset, &mut data);
        let start = usize::try_from(offset).unwrap() - 0x100;
        assert_eq!(data, bench.transport.device().config[start..start + len]);
    }
    let mut data = [0; 8];
    bench.transport.read(0xffc, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn registers_answer_aligned_words_only() {
    let mut bench = bench();
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0xfc, 8), (0x70, 1)] {
        let mut data = vec![0; len];
        bench.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset:#x}+{len}");
        bench.transport.write(offset, &vec![1; len]);
    }
    assert_eq!(bench.driver().status(), 0);
    assert_eq!(bench.transport.take_metrics().cfg_fails, 14);
}

#[test]
fn the_interrupt_status_can_be_read_while_the_device_works() {
    let mut bench = bench();
    bench.start();
    let events = bench.transport.queue_events().to_vec();
    let shared = Arc::new(Mutex::new(bench.transport));
    let mut bus = Bus::default();
    bus.insert(
        0x4000,
        WINDOW_SIZE,
        Arc::new(Mutex::new(MmioWindow::new(shared.clone()))),
    )
    .unwrap();
    let working = shared.lock().unwrap();
    working.interrupt.trigger().unwrap();
    let mut data = [0; 4];
    assert!(bus.read(0x4060, &mut data));
    assert_eq!(data, [1, 0, 0, 0]);
    bus.write(0x4064, &data);
    assert_eq!(working.interrupt.status(), 0);
    bus.write(0x4050, &[0; 4]);
    assert_eq!(events[0].read().unwrap(), 1);
    drop(working);
    bus.read(0x4000, &mut data);
    assert_eq!(data, *b"virt");
}

#[test]
fn a_transport_saved_in_mid_traffic_goes_on_after_a_restore() {
    let memory = guest_memory(0x20000);
    let mut bench = bench_in(memory.clone());
    let spare = {
        bench.start();
        for _ in 0..5 {
            let buffer = bench.queue.writable(10);
            bench.queue.add(&[buffer]);
        }
        bench.transport.process_queue(0);
        assert_eq!(bench.queue.used().len(), 5);
        let buffer = bench.queue.writable(20);
        bench.queue.add(&[buffer])
    };
    bench.transport.write(0x100, &[9; 8]);
    let json = serde_json::to_string(&bench.transport.save()).unwrap();
    drop(bench.transport);

    let (line, doorbells) = (CountingLine::shared(), MockDoorbells::default());
    let mut restored = MmioTransport::new(
        Probe::default(),
        memory,
        line.clone(),
        Box::new(doorbells.clone()),
    )
    .unwrap();
    restored.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert!(restored.is_active());
    assert_eq!(doorbells.attached(), [0]);
    assert_eq!(restored.device().config, [9; 8]);
    assert_eq!(line.take(), 1, "the interrupt that was pending");
    assert_eq!(
        restored.queue_events()[0].read().unwrap(),
        1,
        "the doorbell that was pending"
    );
    restored.process_queue(0);
    assert_eq!(
        bench.queue.used(),
        [crate::virtio::testing::Used { head: spare, len: 20 }]
    );
    assert_eq!(
        restored.save().queues[0].position,
        QueuePosition {
            next_avail: 6,
            next_used: 6
        }
    );
}

#[test]
fn impossible_states_are_refused() {
    let mut bench = bench();
    bench.start();
    let good = bench.transport.save();
    type Edit = fn(&mut MmioState<[u8; 8]>);
    let edits: [(&str, Edit); 12] = [
        ("version", |state| state.version = 2),
        ("device type", |state| state.device_type = 1),
        ("status", |state| state.status = 4),
        ("unknown status", |state| state.status |= 16),
        ("interrupt status", |state| state.interrupt_status = 4),
        ("too few queues", |state| state.queues.truncate(1)),
        ("queue size", |state| state.queues[0].registers.size = 32),
        ("odd queue size", |state| state.queues[0].registers.size = 5),
        ("zero queue size", |state| state.queues[0].registers.size = 0),
        ("ring address", |state| {
            state.queues[0].registers.used_ring = u64::MAX - 3
        }),
        ("features", |state| state.driver_features |= 1 << 50),
        ("needed queue", |state| state.queues[0].registers.ready = false),
    ];
    for (what, edit) in edits {
        let mut state = good.clone();
        edit(&mut state);
        let mut fresh = bench_in(guest_memory(0x20000));
        assert!(fresh.transport.restore(&state).is_err(), "{what}");
    }
    assert!(bench_in(guest_memory(0x20000)).transport.restore(&good).is_ok());
}

#[test]
fn positions_that_do_not_fit_the_rings_stop_the_device_and_no_more() {
    let mut bench = bench();
    bench.start();
    let mut state = bench.transport.save();
    state.queues[0].position = QueuePosition {
        next_avail: 1000,
        next_used: 7,
    };
    bench.transport.restore(&state).unwrap();
    bench.transport.process_queue(0);
    assert_eq!(bench.driver().status() & status::NEEDS_RESET, status::NEEDS_RESET);
}

#[test]
fn a_real_device_works_through_the_registers() {
    let memory = guest_memory(0x20000);
    let line = CountingLine::shared();
    let rng = Rng::new(RateLimiter::default());
    let mut transport = MmioTransport::new(
        rng,
        memory.clone(),
        line.clone(),
        Box::new(MockDoorbells::default()),
    )
    .unwrap();
    let mut queue = MockQueue::new(&memory, 0x1000, 8);
    assert_eq!(
        MockDriver(&mut transport).start(F_EVENT_IDX, &[&queue]),
        status::ALL_STEPS
    );
    let buffer = queue.writable(64);
    queue.add(&[buffer]);
    transport.process_queue(0);
    assert_eq!(queue.used()[0].len, 64);
    assert_ne!(queue.contents(buffer), vec![0xa5; 64]);
    assert_eq!(line.take(), 1);
}

#[test]
fn errors_name_the_cause_without_repeating_it() {
    let source = QueueFault::Memory;
    let text = source.to_string();
    let error = TransportError::Device(DeviceFault::Queue { index: 3, source });
    assert!(!error.to_string().contains(&text));
}
