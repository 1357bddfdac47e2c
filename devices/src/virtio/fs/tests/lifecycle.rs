use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::program::{Message, request};
use super::*;
use crate::virtio::mmio::F_INDIRECT_DESC;
use crate::virtio::mmio::registers::{CONFIG_SPACE, QUEUE_NOTIFY, offset, status};

const RUNNING: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

fn enabled(message: &Message) -> bool {
    message.request == request::SET_VRING_ENABLE && message.u32(0) == 1
}

fn given_back(message: &Message) -> bool {
    message.request == request::GET_VRING_BASE && message.u32(0) == 1
}

fn find(heard: &[Message], request: u32, queue: u32) -> &Message {
    heard
        .iter()
        .find(|message| message.request == request && message.u32(0) == queue)
        .unwrap()
}

fn event(message: &Message) -> EventFd {
    let file = message.file.as_ref().unwrap().try_clone().unwrap();
    // SAFETY: the descriptor was cloned for this, and it is an event's.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}

#[test]
fn the_guest_sees_the_tag_and_the_programs_features() {
    let bench = bench(Habits::default());
    bench.drive(|driver| {
        assert_eq!(driver.read(offset::DEVICE_ID), 26);
        let ring = F_EVENT_IDX | F_INDIRECT_DESC;
        assert_eq!(driver.offered(), ring | 1 << 32, "and none of the others");
        let mut config = [0xff_u8; 44];
        driver.0.read(CONFIG_SPACE, &mut config);
        assert_eq!(&config[..12], b"source code\0");
        assert_eq!(config[12..36], [0; 24]);
        assert_eq!(config[36..], [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    });
}

#[test]
fn the_program_gets_memory_rings_and_events() {
    let bench = bench(Habits::default());
    bench
        .memory
        .write_obj(0x1234_5678_u64, GuestAddress(0x3_0000))
        .unwrap();
    assert_eq!(bench.start(), RUNNING);
    assert_eq!(bench.doorbells.attached(), [0, 1]);
    let heard = bench.program.hear(enabled);

    let features = heard
        .iter()
        .find(|message| message.request == request::SET_FEATURES)
        .unwrap();
    assert_eq!(features.u64(0), 1 << 32 | 1 << 30 | F_EVENT_IDX);
    let table = heard
        .iter()
        .find(|message| message.request == request::SET_MEM_TABLE)
        .unwrap();
    // One region: guest address, size, our address, and where it begins in the file.
    assert_eq!((table.u32(0), table.u64(8), table.u64(16)), (1, 0, 4 << 20));
    let (host, start) = (table.u64(24), table.u64(32));
    let mut seen = [0; 8];
    table
        .file
        .as_ref()
        .unwrap()
        .read_exact_at(&mut seen, start + 0x3_0000)
        .unwrap();
    assert_eq!(u64::from_ne_bytes(seen), 0x1234_5678);

    for (index, queue) in (0..).zip(&bench.queues) {
        assert_eq!(find(&heard, request::SET_VRING_NUM, index).u32(4), 128);
        assert_eq!(find(&heard, request::SET_VRING_BASE, index).u32(4), 0);
        let rings = find(&heard, request::SET_VRING_ADDR, index);
        assert_eq!(rings.u64(8), host + queue.desc_table());
        assert_eq!(rings.u64(16), host + queue.used_ring());
        assert_eq!(rings.u64(24), host + queue.avail_ring());
    }
}

#[test]
fn doorbells_and_interrupts_pass_by_the_event_loop() {
    let mut bench = bench(Habits::default());
    assert_eq!(bench.start(), RUNNING);
    bench.turn();
    let heard = bench.program.hear(enabled);
    let kicks = [0, 1].map(|queue| event(find(&heard, request::SET_VRING_KICK, queue)));
    let call = event(find(&heard, request::SET_VRING_CALL, 1));

    bench.drive(|driver| driver.write(QUEUE_NOTIFY, 1));
    assert_eq!(bench.turn(), 0, "nobody but the program hears the doorbell");
    assert_eq!(kicks[1].read().unwrap(), 1);
    assert!(kicks[0].read().is_err());

    assert!(bench.line.0.read().is_err());
    call.write(1).unwrap();
    assert_eq!(bench.line.0.read().unwrap(), 1);
    // The guest's driver looks at its queues only if the status says so.
    bench.drive(|driver| {
        assert_eq!(driver.read(offset::INTERRUPT_STATUS), 1);
        driver.write(offset::INTERRUPT_ACK, 1);
        assert_eq!(driver.read(offset::INTERRUPT_STATUS), 1, "the next may have come");
    });
}

#[test]
fn a_reset_takes_the_queues_back_and_a_start_gives_them_again() {
    let mut bench = bench(Habits::default());
    assert_eq!(bench.start(), RUNNING);
    bench.program.hear(enabled);
    for _ in 0..3 {
        bench.turn();
        bench.drive(|driver| {
            driver.write(offset::STATUS, 0);
            assert_eq!(driver.status(), 0);
            assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
        });
        assert!(bench.doorbells.attached().is_empty());
        bench.program.hear(given_back);
        assert_eq!(bench.start(), RUNNING);
        bench.program.hear(enabled);
    }
    bench.turn();
    assert_eq!(bench.drive(|driver| driver.status()), RUNNING);
}

#[test]
fn a_program_without_extensions_serves_all_the_same() {
    let bench = bench(Habits {
        protocol_features: 0,
        ..Habits::default()
    });
    assert_eq!(bench.start(), RUNNING);
    bench.program.hear(enabled);
}

#[test]
fn both_queues_are_needed() {
    let bench = bench(Habits::default());
    let [first, _] = &bench.queues;
    let status = bench.drive(|driver| driver.start(0, &[first]));
    assert_eq!(status & status::NEEDS_RESET, status::NEEDS_RESET);
    // The program was not bothered.
    let heard = bench
        .program
        .hear(|message| message.request == request::GET_FEATURES);
    assert!(
        heard
            .iter()
            .all(|message| message.request != request::SET_FEATURES)
    );
}
