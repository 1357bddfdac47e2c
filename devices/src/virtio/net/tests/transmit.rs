use std::time::Duration;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::rate_limiter::BucketConfig;
use crate::virtio::testing::{DESC_F_NEXT, Used};

#[test]
fn a_frame_arrives_whole_however_its_pieces_are_cut() {
    let mut rig = Rig::new(COMMON);
    let sent = frame(200, 3);
    let cuts: [&[usize]; 7] = [
        &[200],
        &[12, 188],
        &[1; 200],
        &[5, 7, 14, 174],
        &[25, 175],
        &[26, 174],
        &[13, 1, 186],
    ];
    for (round, cut) in cuts.iter().enumerate() {
        let mut rest = &sent[..];
        let mut pieces = Vec::new();
        for len in *cut {
            let (piece, after) = rest.split_at(*len);
            pieces.push(rig.tx.readable(piece));
            rest = after;
        }
        let head = if round % 2 == 0 {
            rig.tx.add(&pieces)
        } else {
            rig.tx.add_indirect(&pieces)
        };
        rig.ring(TX);
        assert_eq!(rig.wire.take_sent(), std::slice::from_ref(&sent), "{cut:?}");
        assert_eq!(rig.tx.used(), [Used { head, len: 0 }]);
    }
    let counters = rig.counters();
    assert_eq!((counters.tx_packets_count, counters.tx_bytes_count), (7, 1400));
}

#[test]
fn empty_pieces_do_no_harm() {
    let mut rig = Rig::new(COMMON);
    let sent = frame(90, 0);
    let pieces =
        [&sent[..0], &sent[..12], &sent[..0], &sent[12..], &sent[..0]].map(|part| rig.tx.readable(part));
    rig.tx.add(&pieces);
    rig.ring(TX);
    assert_eq!(rig.wire.take_sent(), [sent]);
}

#[test]
fn a_chain_of_more_descriptors_than_any_driver_needs_is_not_walked_to_its_end() {
    let mut rig = Rig::new(COMMON);
    let sent = frame(90, 0);
    for (empty, frames) in [(1000, 1), (1024, 0)] {
        let mut pieces = vec![rig.tx.readable(&[]); empty];
        pieces.push(rig.tx.readable(&sent));
        let head = rig.tx.add_indirect(&pieces);
        rig.ring(TX);
        assert_eq!(rig.wire.take_sent().len(), frames, "{empty}");
        assert_eq!(rig.tx.used(), [Used { head, len: 0 }]);
    }
    assert_eq!(rig.counters().tx_fails, 1);
}

#[test]
fn spoofed_frames_are_dropped_and_counted() {
    let mut rig = Rig::new(COMMON);
    rig.send(&frame_from([2, 2, 2, 2, 2, 2], 60, 0));
    rig.send(&frame(60, 1));
    assert_eq!(rig.wire.take_sent(), [frame(60, 1)]);
    assert_eq!(rig.tx.used().len(), 2);
    assert_eq!(rig.counters().tx_spoofed_mac_count, 1);

    let mut free = Rig::with(config(None), COMMON, 16);
    free.send(&frame_from([2, 2, 2, 2, 2, 2], 60, 0));
    assert_eq!(
        free.wire.take_sent().len(),
        1,
        "without an address of its own the guest may use any"
    );
}

#[test]
fn a_guest_that_changes_a_frame_after_the_check_sends_what_was_checked() {
    let mut rig = Rig::new(COMMON);
    let good = frame(60, 0);
    let buffer = rig.tx.readable(&good);
    let memory = rig.memory.clone();
    rig.wire.cable(|cable| {
        cable.before_send = Some(Box::new(move || {
            memory
                .write_slice(&[0xee; 26], GuestAddress(buffer.address))
                .unwrap();
        }));
    });
    rig.tx.add(&[buffer]);
    rig.ring(TX);
    assert_eq!(rig.wire.take_sent(), [good]);
}

#[test]
fn runts_giants_and_bad_headers_are_dropped_and_counted() {
    let mut rig = Rig::new(COMMON);
    for len in [1, 11, 12, 25] {
        rig.send(&frame(64, 0)[..len]);
    }
    rig.send(&frame(65_563, 0));
    let mut bad = frame(64, 0);
    bad[1] = 9;
    rig.send(&bad);
    assert_eq!(rig.counters().tx_malformed_frames, 6);
    assert_eq!(rig.tx.used().len(), 6);
    assert!(rig.wire.take_sent().is_empty());
    rig.send(&frame(65_562, 0));
    rig.send(&frame(26, 0));
    assert_eq!(rig.wire.take_sent(), [frame(65_562, 0), frame(26, 0)]);
}

#[test]
fn chains_that_hold_no_frame_are_given_back() {
    let mut rig = Rig::new(COMMON);
    let good = rig.tx.readable(&frame(64, 0));
    let writable = rig.tx.writable(64);
    rig.tx.add(&[good, writable]);
    rig.tx.add(&[writable]);
    rig.tx.add(&[Buffer {
        address: 1 << 40,
        ..good
    }]);
    rig.tx.add(&[
        good,
        Buffer {
            address: MEMORY as u64 - 32,
            ..good
        },
    ]);
    rig.tx.add(&[Buffer {
        address: u64::MAX - 3,
        ..good
    }]);
    let endless = rig.tx.take_descriptor();
    rig.tx.write_descriptor(
        endless,
        Descriptor::new(good.address, good.len, DESC_F_NEXT, endless),
    );
    rig.tx.publish(endless);
    let astray = rig.tx.take_descriptor();
    rig.tx.write_descriptor(
        astray,
        Descriptor::new(good.address, good.len, DESC_F_NEXT, 0x7fff),
    );
    rig.tx.publish(astray);
    rig.tx.publish(0x1234);
    rig.tx.add_indirect(&vec![Buffer { len: 1, ..good }; 1100]);
    rig.ring(TX);
    assert!(rig.wire.take_sent().is_empty());
    assert_eq!(rig.tx.used().iter().filter(|used| used.len == 0).count(), 9);
    assert_eq!(rig.counters().tx_fails, 9);
    rig.send(&frame(64, 5));
    assert_eq!(rig.wire.take_sent(), [frame(64, 5)]);
}

#[test]
fn a_frame_that_the_host_refuses_is_lost_and_the_next_is_not() {
    let mut rig = Rig::new(COMMON);
    for error in [libc::EINVAL, libc::EIO, libc::EAGAIN, libc::EBADFD] {
        rig.wire.cable(|cable| cable.send_error = Some(error));
        rig.send(&frame(64, 0));
    }
    rig.wire.cable(|cable| cable.send_error = None);
    rig.send(&frame(64, 1));
    assert_eq!(rig.wire.take_sent(), [frame(64, 1)]);
    assert_eq!(rig.tx.used().len(), 5);
    assert_eq!(rig.counters().tap_write_fails, 4);
}

#[test]
fn a_turn_is_bounded_goes_on_by_itself_and_interrupts_once() {
    let mut rig = Rig::new(COMMON);
    let buffer = rig.tx.readable(&frame(64, 0));
    for _ in 0..256 {
        rig.tx.add(&[buffer]);
    }
    rig.bells[TX].write(1).unwrap();
    assert!(rig.turn());
    assert_eq!(rig.wire.take_sent().len(), TURN_FRAMES as usize);
    assert_eq!(rig.line.take(), 1);
    assert!(rig.settle() > 0);
    assert_eq!(rig.wire.take_sent().len(), 256 - TURN_FRAMES as usize);
    assert!(!rig.tx.no_notify(), "the driver is asked to ring again");

    let giant = rig.tx.readable(&frame(65_000, 0));
    for _ in 0..64 {
        rig.tx.add(&[giant]);
    }
    rig.bells[TX].write(1).unwrap();
    assert!(rig.turn());
    let sent = rig.wire.take_sent().len();
    assert!(
        (TURN_BYTES / 65_000..=TURN_BYTES / 65_000 + 1).contains(&sent),
        "{sent}"
    );
    rig.settle();
    assert_eq!(rig.tx.used().len(), 320);
}

#[test]
fn frames_over_the_rate_wait_for_the_timer() {
    let ops = BucketConfig {
        size: 2,
        one_time_burst: 0,
        refill_time_ms: 20,
    };
    let limited = NetConfig {
        tx_limiter: RateLimiter::new(None, Some(ops)).unwrap(),
        ..config(Some(MAC))
    };
    let mut rig = Rig::with(limited, COMMON, 16);
    let buffer = rig.tx.readable(&frame(64, 0));
    for _ in 0..5 {
        rig.tx.add(&[buffer]);
    }
    rig.ring(TX);
    assert_eq!(rig.wire.take_sent().len(), 2);
    rig.ring(TX);
    assert!(rig.wire.take_sent().is_empty());
    let timer = rig
        .net
        .backend_events()
        .into_iter()
        .find(|event| event.token == 2)
        .unwrap();
    let mut sent = 0;
    for _ in 0..2 {
        wait_readable(timer.fd);
        rig.net.process_backend(timer.token, timer.events).unwrap();
        rig.settle();
        sent += rig.wire.take_sent().len();
    }
    assert_eq!(sent, 3);
    assert_eq!(rig.tx.used().len(), 5);
    assert_eq!(rig.counters().tx_rate_limiter_throttled, 2);
}

pub(super) fn wait_readable(fd: RawFd) {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = i32::try_from(Duration::from_secs(5).as_millis()).unwrap();
    // SAFETY: one pollfd is passed, which outlives the call.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, timeout) }, 1);
}
