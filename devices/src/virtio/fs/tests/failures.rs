use std::sync::mpsc;
use std::time::Instant;

use super::program::{reply, request};
use super::*;
use crate::virtio::TransportError;
use crate::virtio::mmio::registers::{offset, status};
use crate::virtio::testing::guest_memory;

/// What the transport has reported, in one line each.
fn faults(bench: &Bench) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let line = move |fault: &TransportError| {
        let (mut line, mut source) = (fault.to_string(), std::error::Error::source(fault));
        while let Some(cause) = source {
            line.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        let _ = sender.send(line);
    };
    bench.transport.lock().unwrap().on_fault(Box::new(line));
    receiver
}

fn refused(habits: Habits) -> String {
    let start = Instant::now();
    let error = connect(habits).0.err().unwrap();
    assert!(start.elapsed() < 5 * PATIENCE, "{error}: {:?}", start.elapsed());
    error.to_string()
}

/// The device needs a reset, for a reason that contains `text`; and everything goes on.
fn fails_to_start(habits: Habits, text: &str) {
    let mut bench = bench(habits);
    let faults = faults(&bench);
    let start = Instant::now();
    let status = bench.start();
    assert!(start.elapsed() < 5 * PATIENCE, "{:?}", start.elapsed());
    assert_eq!(status & status::NEEDS_RESET, status::NEEDS_RESET);
    let line = faults.recv().unwrap();
    assert!(line.contains(text), "{line}");
    bench.turn();
    // A second try does not wait again.
    let start = Instant::now();
    bench.drive(|driver| driver.write(offset::STATUS, 0));
    assert_eq!(bench.start() & status::NEEDS_RESET, status::NEEDS_RESET);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(faults.recv().unwrap().contains("lost earlier"));
    bench.turn();
}

#[test]
fn a_program_that_cannot_what_is_needed_is_refused() {
    let without = |bit: u64| Habits {
        features: Habits::default().features & !(1 << bit),
        ..Habits::default()
    };
    assert!(refused(without(32)).contains("VIRTIO_F_VERSION_1"));
    assert!(refused(without(30)).contains("VHOST_USER_F_PROTOCOL_FEATURES"));
    let one = Habits {
        queues: 1,
        ..Habits::default()
    };
    assert!(refused(one).contains("serves 1 queues"));
    let error = Program::connect(std::path::Path::new("/nowhere/fs.sock"))
        .err()
        .unwrap();
    assert!(error.to_string().contains("/nowhere/fs.sock"), "{error}");
}

#[test]
fn a_silent_program_costs_no_more_than_patience() {
    let silent = |request| Habits {
        silent_at: Some(request),
        ..Habits::default()
    };
    assert!(refused(silent(request::GET_FEATURES)).contains("did not answer"));
    fails_to_start(silent(request::SET_MEM_TABLE), "did not answer");
    fails_to_start(silent(request::SET_VRING_ENABLE), "did not answer");
}

#[test]
fn a_program_that_answers_byte_by_byte_runs_into_the_deadline() {
    let slow = Habits {
        dribbles: true,
        ..Habits::default()
    };
    assert!(refused(slow).contains("did not answer"));
}

#[test]
fn a_program_that_hangs_up_is_noticed() {
    let closes = |request| Habits {
        closes_at: Some(request),
        ..Habits::default()
    };
    assert!(refused(closes(request::GET_PROTOCOL_FEATURES)).contains("did not tell its protocol features"));
    fails_to_start(closes(request::SET_VRING_KICK), "did not take a queue");
}

#[test]
fn a_program_that_says_no_fails_the_start() {
    fails_to_start(
        Habits {
            refuses: Some(request::SET_MEM_TABLE),
            ..Habits::default()
        },
        "did not map the guest's memory",
    );
}

#[test]
fn garbled_answers_are_refused() {
    let whole = |header: Vec<u8>| [header, vec![0xff; 64]].concat();
    let huge = reply(request::GET_FEATURES, u32::MAX);
    let other = reply(request::GET_QUEUE_NUM, 8);
    for answer in [whole(huge), whole(other), vec![0; 20], vec![0xff; 4096], vec![1]] {
        let habits = Habits {
            garbles: Some((request::GET_FEATURES, answer)),
            ..Habits::default()
        };
        refused(habits);
    }
    let state = |num: u32| {
        [
            reply(request::GET_VRING_BASE, 8),
            [0, num].map(u32::to_ne_bytes).concat(),
        ]
        .concat()
    };
    // Where a queue stood does not interest anybody, and so cannot lie.
    let bench = bench(Habits {
        garbles: Some((request::GET_VRING_BASE, state(u32::MAX))),
        ..Habits::default()
    });
    bench.start();
    bench.drive(|driver| driver.write(offset::STATUS, 0));
    assert_eq!(bench.start() & status::NEEDS_RESET, 0);
}

#[test]
fn the_end_of_the_program_stops_the_device_and_nothing_else() {
    let mut bench = bench(Habits::default());
    let faults = faults(&bench);
    bench.start();
    bench.turn();
    bench.program.end();
    assert!(bench.turn() > 0);
    assert!(faults.recv().unwrap().contains("has closed its socket"));
    bench.drive(|driver| {
        assert_eq!(driver.status() & status::NEEDS_RESET, status::NEEDS_RESET);
        assert_eq!(
            driver.read(offset::INTERRUPT_STATUS) & 2,
            2,
            "and the driver is told"
        );
    });
    assert!(bench.doorbells.attached().is_empty());
    assert_eq!(bench.turn(), 0, "the event loop does not spin");
    let start = Instant::now();
    bench.drive(|driver| driver.write(offset::STATUS, 0));
    assert!(start.elapsed() < PATIENCE, "nobody is waited for");
}

#[test]
fn a_program_that_speaks_unasked_is_ended() {
    let mut bench = bench(Habits::default());
    let faults = faults(&bench);
    bench.start();
    bench.turn();
    bench.program.say(b"hello");
    bench.turn();
    assert!(faults.recv().unwrap().contains("nobody had asked for"));
    assert_eq!(bench.turn(), 0);
}

#[test]
fn a_reset_under_a_silent_program_takes_no_more_than_patience() {
    let bench = bench(Habits {
        silent_at: Some(request::GET_VRING_BASE),
        ..Habits::default()
    });
    bench.start();
    let start = Instant::now();
    bench.drive(|driver| {
        driver.write(offset::STATUS, 0);
        assert_eq!(driver.status(), 0);
    });
    assert!(start.elapsed() < 5 * PATIENCE, "{:?}", start.elapsed());
    assert_eq!(bench.start() & status::NEEDS_RESET, status::NEEDS_RESET);
}

#[test]
fn private_memory_cannot_be_shared() {
    let bench = bench_with(Habits::default(), guest_memory(4 << 20));
    let faults = faults(&bench);
    assert_eq!(bench.start() & status::NEEDS_RESET, status::NEEDS_RESET);
    let line = faults.recv().unwrap();
    assert!(line.contains("guest memory is private"), "{line}");
}

#[test]
fn a_driver_that_starts_and_resets_all_the_time_is_served() {
    let mut bench = bench(Habits::default());
    for _ in 0..50 {
        bench.start();
        bench.drive(|driver| driver.write(offset::STATUS, 0));
    }
    assert!(bench.program.count() > 50);
    assert!(bench.start() & status::NEEDS_RESET == 0);
    bench.turn();
    assert_eq!(bench.drive(|driver| driver.status()) & status::NEEDS_RESET, 0);
}
