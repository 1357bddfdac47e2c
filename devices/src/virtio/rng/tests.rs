#![allow(clippy::arithmetic_side_effects)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::EventSet;
use virtio_queue::desc::split::Descriptor;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::rate_limiter::{BucketConfig, RateLimiter, TokenKind};
use crate::state::{Metered, Snapshot};
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::testing::{
    CountingLine, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MockQueue, guest_memory,
};

/// Counts up from 1, and fails after `left` bytes.
struct Counter {
    next: u8,
    left: usize,
}

impl RandomSource for Counter {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.len() > self.left {
            return Err(io::Error::other("dry"));
        }
        self.left -= buffer.len();
        for byte in buffer {
            *byte = self.next;
            self.next = self.next.wrapping_add(1);
        }
        Ok(())
    }
}

fn counter(left: usize) -> Counter {
    Counter { next: 1, left }
}

struct Bench {
    rng: Rng<Counter>,
    driver: MockQueue,
    doorbell: Arc<EventFd>,
    line: Arc<CountingLine>,
}

fn bench(left: usize, rate_limiter: RateLimiter) -> Bench {
    let memory = guest_memory(4 << 20);
    let driver = MockQueue::new(&memory, 0x1000, 64);
    let line = CountingLine::shared();
    let (queue, doorbell) = driver.activate(line.clone(), false);
    let mut rng = Rng::with_source(counter(left), rate_limiter);
    rng.activate(Activation {
        memory,
        queues: vec![queue],
        features: 0,
    })
    .unwrap();
    Bench {
        rng,
        driver,
        doorbell,
        line,
    }
}

fn unlimited() -> Bench {
    bench(usize::MAX, RateLimiter::default())
}

#[test]
fn every_writable_part_is_filled_and_no_other() {
    let mut bench = unlimited();
    let readable = bench.driver.readable(b"keep");
    let (first, second) = (bench.driver.writable(3), bench.driver.writable(5000));
    bench.driver.add(&[readable, first, second]);
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used()[0].len, 5003);
    assert_eq!(bench.driver.contents(readable), b"keep");
    assert_eq!(bench.driver.contents(first), [1, 2, 3]);
    let expected: Vec<u8> = (0..5000_u32)
        .map(|index| u8::try_from((index + 4) % 256).unwrap())
        .collect();
    assert_eq!(bench.driver.contents(second), expected);
    assert_eq!(bench.line.take(), 1);
    let metrics = bench.rng.take_metrics();
    assert_eq!((metrics.entropy_event_count, metrics.entropy_bytes), (1, 5003));
    assert_eq!(bench.rng.take_metrics(), RngMetrics::default());
}

#[test]
fn the_hosts_randomness_is_not_constant() {
    let mut source = HostRandom;
    let (mut a, mut b) = ([0; 300], [0; 300]);
    source.fill(&mut a).unwrap();
    source.fill(&mut b).unwrap();
    assert_ne!(a, b);
    assert!(a.iter().any(|byte| *byte != a[0]));
}

#[test]
fn a_request_gets_at_most_64_kib() {
    let mut bench = unlimited();
    let (big, rest) = (bench.driver.writable(65_000), bench.driver.writable(65_000));
    bench.driver.add_indirect(&[big, rest]);
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used()[0].len, 65_536);
    assert_eq!(bench.driver.contents(rest)[536..], vec![0xa5; 65_000 - 536]);
}

#[test]
fn a_greedy_guest_waits_its_turn() {
    let mut bench = unlimited();
    let buffer = bench.driver.writable(65_536);
    for _ in 0..20 {
        bench.driver.add(&[buffer]);
    }
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used().len(), 16, "1 MiB");
    assert_eq!(bench.doorbell.read().unwrap(), 1);
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used().len(), 4);
    assert!(bench.doorbell.read().is_err());
}

#[test]
fn requests_that_cannot_be_served_come_back_empty() {
    let mut bench = unlimited();
    let readable = bench.driver.readable(b"nothing to write");
    bench.driver.add(&[readable]);
    bench
        .driver
        .write_descriptor(1, Descriptor::new(1 << 40, 64, DESC_F_WRITE, 0));
    bench.driver.publish(1);
    bench
        .driver
        .write_descriptor(2, Descriptor::new(u64::MAX, u32::MAX, DESC_F_WRITE, 0));
    bench.driver.publish(2);
    bench
        .driver
        .write_descriptor(3, Descriptor::new(0x8000, 0, DESC_F_WRITE | DESC_F_NEXT, 3));
    bench.driver.publish(3);
    // A table of 65,535 descriptors without any room.
    bench
        .driver
        .write_descriptor(4, Descriptor::new(0x10_0000, 16 * 65_535, DESC_F_INDIRECT, 0));
    bench.driver.publish(4);
    bench.rng.process_queue(0).unwrap();
    let lens: Vec<_> = bench.driver.used().iter().map(|used| used.len).collect();
    assert_eq!(lens, [0; 5]);
    assert_eq!(bench.rng.take_metrics().entropy_event_fails, 5);
}

#[test]
fn a_dry_source_gives_what_it_has() {
    let mut bench = bench(4096, RateLimiter::default());
    let buffer = bench.driver.writable(5000);
    bench.driver.add(&[buffer]);
    bench.driver.add(&[buffer]);
    bench.rng.process_queue(0).unwrap();
    let lens: Vec<_> = bench.driver.used().iter().map(|used| used.len).collect();
    assert_eq!(lens, [4096, 0]);
    let metrics = bench.rng.take_metrics();
    assert_eq!((metrics.host_rng_fails, metrics.entropy_event_fails), (2, 1));
}

#[test]
fn the_rate_limit_puts_requests_off_until_its_timer_fires() {
    let ops = BucketConfig {
        size: 2,
        one_time_burst: 0,
        refill_time_ms: 10,
    };
    let mut bench = bench(usize::MAX, RateLimiter::new(None, Some(ops)).unwrap());
    let buffer = bench.driver.writable(8);
    for _ in 0..3 {
        bench.driver.add(&[buffer]);
    }
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used().len(), 2);
    assert!(bench.doorbell.read().is_err(), "no busy loop");
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used().len(), 0);

    let watched = bench.rng.backend_events();
    assert_eq!(watched.len(), 1);
    bench.rng.process_backend(watched[0].token, EventSet::IN).unwrap();
    assert_eq!(bench.driver.used().len(), 0, "too early");
    let mut poll = libc::pollfd {
        fd: watched[0].fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one initialised pollfd, as said.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 10_000) }, 1);
    bench.rng.process_backend(watched[0].token, EventSet::IN).unwrap();
    assert_eq!(bench.driver.used().len(), 1);
    let metrics = bench.rng.take_metrics();
    assert_eq!(metrics.entropy_rate_limiter_throttled, 2);
    assert_eq!(metrics.rate_limiter_event_count, 1);
}

#[test]
fn a_request_refused_for_its_bytes_costs_no_operation() {
    let limit = |size| {
        Some(BucketConfig {
            size,
            one_time_burst: 0,
            refill_time_ms: 3_600_000,
        })
    };
    let mut bench = bench(usize::MAX, RateLimiter::new(limit(10), limit(2)).unwrap());
    let buffer = bench.driver.writable(8);
    bench.driver.add(&[buffer]);
    bench.driver.add(&[buffer]);
    bench.rng.process_queue(0).unwrap();
    assert_eq!(bench.driver.used().len(), 1);
    let state = bench.rng.save().rate_limiter;
    assert_eq!(state.ops.unwrap().budget, 1);
}

#[test]
fn without_its_queue_the_device_does_not_start() {
    let mut rng = Rng::new(RateLimiter::default());
    let activation = Activation {
        memory: guest_memory(0x1000),
        queues: Vec::new(),
        features: 0,
    };
    assert!(matches!(
        rng.activate(activation),
        Err(ActivateError::QueueMissing(0))
    ));
}

#[test]
fn its_limit_survives_a_save() {
    let bytes = Some(BucketConfig {
        size: 100,
        one_time_burst: 0,
        refill_time_ms: 3_600_000,
    });
    let mut rng = Rng::new(RateLimiter::new(bytes, None).unwrap());
    assert!(rng.rate_limiter_mut().consume(60, TokenKind::Bytes));
    let json = serde_json::to_string(&rng.save()).unwrap();
    let mut restored = Rng::new(RateLimiter::default());
    restored.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert!(restored.rate_limiter_mut().consume(40, TokenKind::Bytes));
    assert!(!restored.rate_limiter_mut().consume(1, TokenKind::Bytes));
}
