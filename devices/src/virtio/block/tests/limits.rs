//! Rate limits, and the turn that a busy guest must end.

use super::*;
use crate::rate_limiter::{BucketConfig, BucketUpdate, RateLimiter};

fn bucket(size: u64, refill_time_ms: u64) -> BucketConfig {
    BucketConfig {
        size,
        one_time_burst: 0,
        refill_time_ms,
    }
}

fn limited(engine: Engine, bytes: Option<BucketConfig>, ops: Option<BucketConfig>) -> Machine {
    let rate_limiter = RateLimiter::new(bytes, ops).unwrap();
    let config = BlockConfig {
        rate_limiter,
        ..Default::default()
    };
    Machine::new(Options {
        engine,
        config,
        ..Default::default()
    })
}

fn add_reads(machine: &mut Machine, count: usize, len: usize) {
    let head = machine.queue.readable(&header(IN, 0));
    let rest = machine.queue.writable(len + 1);
    for _ in 0..count {
        machine.queue.add(&[head, rest]);
    }
}

#[test]
fn requests_beyond_the_limit_wait_for_the_timer() {
    for engine in ENGINES {
        for (bytes, ops) in [(None, Some(bucket(2, 200))), (Some(bucket(1024, 200)), None)] {
            let mut machine = limited(engine, bytes, ops);
            add_reads(&mut machine, 3, 512);
            machine.block.process_queue(0).unwrap();
            if engine == Engine::Async {
                machine.block.quiesce().unwrap();
            }
            assert_eq!(machine.queue.used().len(), 2);
            assert_eq!(machine.block.metrics().rate_limiter_throttled_events, 1);
            while machine.queue.used().is_empty() {
                machine.serve_event();
            }
            assert!(machine.block.metrics().rate_limiter_event_count > 0);
        }
    }
}

#[test]
fn zeroes_count_as_bytes_and_discards_do_not() {
    for (kind, served) in [(WRITE_ZEROES, 2), (DISCARD, 3)] {
        let mut machine = limited(Engine::Sync, Some(bucket(1024, 10_000)), None);
        for _ in 0..3 {
            let request = [header(kind, 0), range(0, 1, 0)].concat();
            let request = machine.queue.readable(&request);
            let status = machine.queue.writable(1);
            machine.queue.add(&[request, status]);
        }
        machine.block.process_queue(0).unwrap();
        assert_eq!(machine.queue.used().len(), served, "type {kind}");
    }
}

#[test]
fn a_request_larger_than_the_bucket_still_goes_through() {
    let mut machine = limited(Engine::Sync, Some(bucket(512, 100)), None);
    assert_eq!(machine.read(0, 4096).status(), OK);
}

#[test]
fn a_limit_can_be_set_and_lifted_while_the_guest_runs() {
    let mut machine = Machine::with_engine(Engine::Sync);
    assert!(machine.block.backend_events().is_empty());
    machine
        .block
        .update_rate_limiter(BucketUpdate::Keep, BucketUpdate::Replace(bucket(1, 1000)))
        .unwrap();
    assert_eq!(machine.block.backend_events().len(), 1);
    add_reads(&mut machine, 2, 512);
    machine.block.process_queue(0).unwrap();
    assert_eq!(machine.queue.used().len(), 1);
    machine
        .block
        .update_rate_limiter(BucketUpdate::Keep, BucketUpdate::Disable)
        .unwrap();
    machine.serve_event();
    assert_eq!(machine.queue.used().len(), 1);
    assert_eq!(machine.block.metrics().update_count, 2);
}

#[test]
fn a_turn_ends_after_so_many_bytes_and_the_doorbell_rings_for_the_next() {
    let mut machine = Machine::new(Options {
        sectors: 1 << 17,
        ..Default::default()
    });
    let (queue, doorbell) = machine.queue.activate(machine.line.clone(), false);
    let features = machine.block.features();
    let activation = Activation {
        memory: machine.memory.clone(),
        queues: vec![queue],
        features,
    };
    machine.block.reset();
    machine.block.activate(activation).unwrap();
    let head = machine.queue.readable(&header(IN, 0));
    let status = machine.queue.writable(1);
    // 32 MiB into the same memory, over and over.
    let room = Buffer {
        address: 0,
        len: 1 << 20,
        writable: true,
    };
    let mut chain = vec![head];
    chain.extend([room; 32]);
    chain.push(status);
    for _ in 0..5 {
        machine.queue.add(&chain);
    }
    machine.block.process_queue(0).unwrap();
    assert_eq!(machine.queue.used().len(), 2);
    assert_eq!(doorbell.read().unwrap(), 1);
    machine.block.process_queue(0).unwrap();
    assert_eq!(machine.queue.used().len(), 2);
    assert_eq!(doorbell.read().unwrap(), 1);
    machine.block.process_queue(0).unwrap();
    assert_eq!(machine.queue.used().len(), 1);
    assert!(doorbell.read().is_err(), "the last turn ends by itself");
    assert_eq!(machine.block.metrics().remaining_reqs_count, 2);
}

#[test]
fn a_turn_ends_after_so_many_zeroes_and_ranges() {
    // 64 MiB of zeroes each, and a dozen ranges of one sector each: the ranges weigh as much as a dozen flushes.
    let zeroes = [header(WRITE_ZEROES, 0), range(0, 1 << 17, 1)].concat();
    let discard = [header(DISCARD, 0), range(0, 1, 0).repeat(12)].concat();
    for (request, per_turn) in [(zeroes, 1), (discard, 6)] {
        let mut machine = Machine::new(Options {
            sectors: 1 << 17,
            ..Default::default()
        });
        for _ in 0..10 {
            let request = machine.queue.readable(&request);
            let status = machine.queue.writable(1);
            machine.queue.add(&[request, status]);
        }
        machine.block.process_queue(0).unwrap();
        assert_eq!(machine.queue.used().len(), per_turn);
        assert_eq!(machine.block.metrics().remaining_reqs_count, 1);
    }
}
