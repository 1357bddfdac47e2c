#![allow(clippy::arithmetic_side_effects)]

mod places;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{
    Buffer, CountingLine, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MockQueue, Used, guest_memory,
};

struct Bench {
    driver: MockQueue,
    device: ActiveQueue,
    doorbell: Arc<EventFd>,
    line: Arc<CountingLine>,
}

fn bench(size: u16, event_index: bool) -> Bench {
    bench_in(&guest_memory(0x10_0000), 0x1000, size, event_index)
}

fn bench_in(memory: &GuestRam, base: u64, size: u16, event_index: bool) -> Bench {
    let driver = MockQueue::new(memory, base, size);
    let line = CountingLine::shared();
    let (device, doorbell) = driver.activate(line.clone(), event_index);
    Bench {
        driver,
        device,
        doorbell,
        line,
    }
}

impl Bench {
    fn add(&mut self, count: usize) {
        for _ in 0..count {
            let buffer = self.driver.writable(4);
            self.driver.add(&[buffer]);
        }
    }

    fn drain(&mut self) -> Drained {
        self.device.drain(|_| Step::Used(4)).unwrap()
    }
}

#[test]
fn every_available_chain_comes_back_once_and_in_order() {
    let mut bench = bench(8, false);
    let request = bench.driver.readable(b"ping");
    let answer = bench.driver.writable(8);
    let first = bench.driver.add(&[request, answer]);
    let second = bench.driver.add_indirect(&[request, answer]);
    let mut seen = Vec::new();
    let drained = bench.device.drain(|chain| {
        let parts: Vec<_> = chain
            .map(|part| (part.addr().0, part.len(), part.is_write_only()))
            .collect();
        seen.push(parts);
        Step::Used(u32::try_from(seen.len()).unwrap())
    });
    assert_eq!(drained.unwrap(), Drained::Empty);
    let expected = vec![(request.address, 4, false), (answer.address, 8, true)];
    assert_eq!(seen, [expected.clone(), expected]);
    assert_eq!(
        bench.driver.used(),
        [Used { head: first, len: 1 }, Used { head: second, len: 2 }]
    );
    assert_eq!(bench.line.take(), 1, "one interrupt for both");
    assert_eq!(bench.drain(), Drained::Empty);
    assert_eq!(bench.line.take(), 0, "nothing used, no interrupt");
}

#[test]
fn both_rings_wrap_around_their_size_and_their_index() {
    for event_index in [false, true] {
        let mut bench = bench(4, event_index);
        let mut served = 0;
        for round in 0..30_000_u32 {
            let count = usize::try_from(round % 4 + 1).unwrap();
            let heads: Vec<_> = (0..count)
                .map(|_| {
                    bench.driver.add(&[Buffer {
                        address: 0x8000,
                        len: 4,
                        writable: true,
                    }])
                })
                .collect();
            bench.driver.set_used_event(bench.driver.used_index());
            assert_eq!(bench.drain(), Drained::Empty);
            let used: Vec<_> = bench.driver.used().iter().map(|used| used.head).collect();
            assert_eq!(used, heads);
            assert_eq!(bench.line.take(), 1, "round {round}");
            served += count;
        }
        assert!(served > usize::from(u16::MAX));
    }
}

#[test]
fn the_driver_can_switch_interrupts_off() {
    let mut bench = bench(8, false);
    bench.driver.set_no_interrupt(true);
    bench.add(2);
    bench.drain();
    assert_eq!(bench.driver.used().len(), 2);
    assert_eq!(bench.line.take(), 0);
    bench.driver.set_no_interrupt(false);
    bench.add(1);
    bench.drain();
    assert_eq!(bench.line.take(), 1);
}

#[test]
fn with_the_event_index_only_the_asked_for_used_index_interrupts() {
    // Used index before, event, used index after, interrupt?
    for (event, interrupts) in [(0, 1), (1, 1), (2, 1), (3, 0), (100, 0), (u16::MAX, 0)] {
        let mut bench = bench(8, true);
        // The flag of the other scheme must not matter now.
        bench.driver.set_no_interrupt(true);
        bench.driver.set_used_event(event);
        bench.add(3);
        bench.drain();
        assert_eq!(bench.line.take(), interrupts, "event {event}");
    }
}

#[test]
fn the_event_index_survives_the_wrap_of_the_used_index() {
    let mut bench = bench(8, true);
    bench.device.queue.set_next_used(u16::MAX - 1);
    bench.device.signalled = u16::MAX - 1;
    bench.driver.set_used_event(u16::MAX);
    bench.add(1);
    bench.drain();
    assert_eq!(bench.line.take(), 0);
    bench.add(1);
    bench.drain();
    assert_eq!(bench.line.take(), 1);
    assert_eq!(bench.driver.used_index(), 0);
}

#[test]
fn the_driver_is_asked_to_ring_only_when_nothing_is_left() {
    let mut flags = bench(8, false);
    flags.add(1);
    let mut silent = Vec::new();
    let driver = &flags.driver;
    flags
        .device
        .drain(|_| {
            silent.push(driver.no_notify());
            Step::Used(0)
        })
        .unwrap();
    assert_eq!(silent, [true]);
    assert!(!flags.driver.no_notify());

    let mut index = bench(8, true);
    index.add(3);
    index.drain();
    assert_eq!(index.driver.avail_event(), 3);
}

#[test]
fn a_chain_put_off_is_handed_out_again() {
    let mut bench = bench(8, false);
    bench.add(3);
    let mut taken = 0;
    let drained = bench.device.drain(|_| {
        taken += 1;
        if taken == 2 { Step::Later } else { Step::Used(0) }
    });
    assert_eq!(drained.unwrap(), Drained::Later);
    assert_eq!(bench.driver.used().len(), 1);
    assert!(bench.driver.no_notify(), "the device comes back by itself");
    assert_eq!(
        bench.device.position(),
        QueuePosition {
            next_avail: 1,
            next_used: 1
        }
    );
    assert_eq!(bench.drain(), Drained::Empty);
    assert_eq!(
        bench
            .driver
            .used()
            .iter()
            .map(|used| used.head)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(!bench.driver.no_notify());
}

#[test]
fn a_guest_that_refills_the_ring_for_ever_does_not_hold_the_loop() {
    for event_index in [false, true] {
        let mut bench = bench(8, event_index);
        bench.add(1);
        let mut served = 0;
        let driver = &mut bench.driver;
        let drained = bench.device.drain(|_| {
            served += 1;
            driver.publish(0);
            Step::Used(0)
        });
        assert_eq!(drained.unwrap(), Drained::More);
        assert_eq!(served, 4 * 8);
        assert_eq!(bench.doorbell.read().unwrap(), 1, "it asked to be called again");
        // The next turn takes up where this one stopped.
        assert_eq!(bench.drain(), Drained::Empty);
        assert_eq!(bench.driver.used_index(), 4 * 8 + 1);
    }
}

#[test]
fn an_available_index_beyond_the_ring_is_a_fault_after_what_was_good() {
    let mut bench = bench(8, false);
    bench.add(1);
    let driver = &mut bench.driver;
    let drained = bench.device.drain(|_| {
        driver.set_avail_index(1000);
        Step::Used(0)
    });
    assert!(matches!(drained, Err(QueueFault::Index { ahead: 999, size: 8 })));
    assert_eq!(bench.line.take(), 1, "the good one is announced");
    assert_eq!(bench.driver.used().len(), 1);
}

#[test]
fn malformed_chains_end_and_are_given_back() {
    let table = 0x8000;
    let indirect_in_indirect = |bench: &mut Bench| {
        bench
            .device
            .memory()
            .ram()
            .write_obj(
                Descriptor::new(table, 16, DESC_F_INDIRECT, 0),
                GuestAddress(table),
            )
            .unwrap();
        Descriptor::new(table, 16, DESC_F_INDIRECT, 0)
    };
    let looped_table = |bench: &mut Bench| {
        let looped = Descriptor::new(0x9000, 1, DESC_F_NEXT, 0);
        bench
            .device
            .memory()
            .ram()
            .write_obj(looped, GuestAddress(table))
            .unwrap();
        Descriptor::new(table, 16 * 65_535, DESC_F_INDIRECT, 0)
    };
    type Make<'a> = &'a dyn Fn(&mut Bench) -> Descriptor;
    // What the first descriptor is, and at most how many parts the chain may have.
    let cases: [(&str, Make, usize); 8] = [
        ("loop", &|_| Descriptor::new(0x9000, 1, DESC_F_NEXT, 0), 8),
        (
            "next beyond the table",
            &|_| Descriptor::new(0x9000, 1, DESC_F_NEXT, 8),
            1,
        ),
        ("loop in an indirect table", &looped_table, 65_535),
        (
            "indirect table outside memory",
            &|_| Descriptor::new(1 << 40, 160, DESC_F_INDIRECT, 0),
            0,
        ),
        (
            "indirect table at the end",
            &|_| Descriptor::new(u64::MAX - 7, 160, DESC_F_INDIRECT, 0),
            0,
        ),
        (
            "indirect table of odd size",
            &|_| Descriptor::new(table, 17, DESC_F_INDIRECT, 0),
            0,
        ),
        (
            "indirect table too large",
            &|_| Descriptor::new(table, !15, DESC_F_INDIRECT, 0),
            0,
        ),
        ("indirect in indirect", &indirect_in_indirect, 0),
    ];
    for (what, make, most) in cases {
        let mut bench = bench(8, false);
        let descriptor = make(&mut bench);
        bench.driver.write_descriptor(0, descriptor);
        bench.driver.publish(0);
        let mut parts = usize::MAX;
        let drained = bench.device.drain(|chain| {
            parts = chain.count();
            Step::Used(0)
        });
        assert_eq!(drained.unwrap(), Drained::Empty, "{what}");
        assert!(parts <= most, "{what}: {parts}");
        assert_eq!(bench.driver.used(), [Used { head: 0, len: 0 }], "{what}");
    }
}

#[test]
fn a_head_beyond_the_table_is_an_empty_chain() {
    let mut bench = bench(8, false);
    bench.driver.publish(8);
    bench.driver.publish(u16::MAX);
    let mut parts = 0;
    bench
        .device
        .drain(|chain| {
            parts += chain.count();
            Step::Used(0)
        })
        .unwrap();
    assert_eq!(parts, 0);
    assert_eq!(bench.driver.used().len(), 2);
}

#[test]
fn a_chain_longer_than_4_gib_is_cut() {
    let mut bench = bench(8, false);
    for index in 0..8 {
        let descriptor = Descriptor::new(0, u32::MAX, DESC_F_NEXT | DESC_F_WRITE, index + 1);
        bench.driver.write_descriptor(index, descriptor);
    }
    bench.driver.publish(0);
    let mut parts = 0;
    bench
        .device
        .drain(|chain| {
            parts = chain.count();
            Step::Used(0)
        })
        .unwrap();
    assert_eq!(parts, 1);
}

#[test]
fn several_buffers_can_be_given_back_at_once() {
    let mut bench = bench(4, false);
    bench.add(4);
    let memory = bench.device.memory().clone();
    let heads: Vec<_> = std::iter::from_fn(|| bench.device.pop(&memory).unwrap())
        .map(|chain| (chain.head_index(), 7))
        .collect();
    assert_eq!(heads.len(), 4);
    bench.device.undo_pop(1);
    assert_eq!(bench.driver.used(), [], "nothing is published yet");
    bench.device.push_used(&heads[..3]).unwrap();
    assert_eq!(bench.driver.used().len(), 3);
    assert_eq!(bench.line.take(), 0);
    bench.device.notify().unwrap();
    assert_eq!(bench.line.take(), 1);
    assert_eq!(
        bench.device.pop(&memory).unwrap().unwrap().head_index(),
        heads[3].0
    );
}

#[test]
fn chains_put_back_are_handed_out_again_after_the_driver_added_more() {
    let mut bench = bench(4, false);
    let chains = Arc::clone(bench.device.memory());
    bench.add(2);
    let first = bench.device.pop(&chains).unwrap().unwrap().head_index();
    bench.device.undo_pop(1);
    bench.add(2);
    let mut pop = || Some(bench.device.pop(&chains).unwrap()?.head_index());
    let heads: Vec<_> = std::iter::from_fn(&mut pop).collect();
    assert_eq!(heads, [first, 1, 2, 3]);
    assert_eq!(bench.device.outstanding().unwrap(), 4);
}

#[test]
fn a_disabled_queue_stays_silent() {
    let memory = guest_memory(0x1000);
    let doorbell = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let mut queue =
        ActiveQueue::new(Queue::new(8).unwrap(), memory, CountingLine::shared(), doorbell).unwrap();
    assert!(!queue.ready());
    assert_eq!(
        queue.drain(|_| panic!("there is no chain")).unwrap(),
        Drained::Empty
    );
    let chains = Arc::clone(queue.memory());
    assert!(matches!(queue.pop(&chains), Err(QueueFault::Disabled)));
    assert!(matches!(queue.push_used(&[(0, 0)]), Err(QueueFault::Disabled)));
}
