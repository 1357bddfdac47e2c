use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::*;
use crate::rate_limiter::BucketConfig;
use crate::virtio::testing::{Used, tracked_memory};

/// Puts together what the driver got in `used`, whose buffers all have one piece; `buffers` by head.
fn collect(rig: &Rig, buffers: &[Buffer], used: &[Used]) -> Vec<u8> {
    let part = |used: &Used| {
        rig.rx.contents(Buffer {
            len: used.len,
            ..buffers[usize::from(used.head)]
        })
    };
    used.iter().flat_map(part).collect()
}

/// The frame as a driver sees it that came in `count` buffers.
fn merged(mut frame: Vec<u8>, count: u16) -> Vec<u8> {
    frame[10..12].copy_from_slice(&count.to_le_bytes());
    frame
}

#[test]
fn a_large_frame_is_spread_over_many_small_buffers_that_appear_at_once() {
    let mut rig = Rig::new(COMMON);
    let buffers = rig.add_rx(&[1526; 100]);
    rig.ring(RX);
    let large = frame(65_000, 9);
    rig.wire.offer(&large);
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(used.len(), 43);
    assert_eq!(used[42].len, 65_000 - 42 * 1526);
    assert_eq!(collect(&rig, &buffers, &used), merged(large, 43));
    assert_eq!(rig.line.take(), 1);
    rig.wire.offer(&frame(60, 1));
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(collect(&rig, &buffers, &used), merged(frame(60, 1), 1));
}

#[test]
fn a_header_may_be_spread_over_pieces_of_one_buffer() {
    let mut rig = Rig::new(COMMON);
    let pieces: Vec<_> = [1, 10, 2, 3, 500]
        .iter()
        .map(|len| rig.rx.writable(*len))
        .collect();
    rig.rx.add(&pieces);
    rig.ring(RX);
    let sent = frame(100, 1);
    rig.wire.offer(&sent);
    rig.arrive();
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| rig.rx.contents(*piece))
        .take(100)
        .collect();
    assert_eq!(bytes, merged(sent, 1));
    assert_eq!(
        rig.rx.contents(pieces[4])[84],
        0xa5,
        "nothing beyond the frame is written"
    );
}

#[test]
fn without_buffers_frames_stay_with_the_host_and_flow_when_the_driver_refills() {
    for features in [COMMON, COMMON | EVENT_INDEX] {
        let mut rig = Rig::with(config(Some(MAC)), features, 8);
        let frames: Vec<_> = (0..5000usize).map(|at| frame(60 + at % 1400, at as u8)).collect();
        for frame in &frames {
            rig.wire.offer(frame);
        }
        rig.arrive();
        assert_eq!(rig.wire.waiting(), 5000);
        assert!(rig.counters().no_rx_avail_buffer > 0);
        // From here on the host stays silent: only the doorbell moves frames, if the device wants to hear it.
        let buffers = rig.add_rx(&[1600; 8]);
        let mut got = Vec::new();
        rig.ring(RX);
        while got.len() < frames.len() {
            let used = rig.rx.used();
            assert!(!used.is_empty(), "receiving froze after {} frames", got.len());
            let added = rig.rx.used_index();
            let wanted = if rig.event_index {
                rig.rx.avail_event() == added
            } else {
                !rig.rx.no_notify()
            };
            assert!(wanted, "nobody would tell us of new buffers");
            for used in used {
                got.push(collect(&rig, &buffers, &[used]));
                assert_eq!(rig.rx.add(&[buffers[usize::from(used.head)]]), used.head);
            }
            rig.ring(RX);
        }
        assert!(rig.net.most_pieces() <= 2048, "lists grow with the traffic");
        for (got, sent) in got.into_iter().zip(frames) {
            assert_eq!(got, merged(sent, 1));
        }
    }
}

#[test]
fn a_frame_larger_than_the_buffers_at_hand_waits_for_more() {
    let mut rig = Rig::new(COMMON);
    let mut buffers = rig.add_rx(&[1526; 60]);
    rig.ring(RX);
    rig.wire.offer(&frame(50 * 1526, 0)[..60_000]);
    rig.arrive();
    assert_eq!(rig.rx.used().len(), 40);
    let (large, small) = (frame(40_000, 4), frame(70, 5));
    rig.wire.offer(&large);
    rig.wire.offer(&small);
    rig.arrive();
    assert!(rig.rx.used().is_empty());
    buffers.extend(rig.add_rx(&[1526; 7]));
    rig.ring(RX);
    let used = rig.rx.used();
    assert_eq!(used.len(), 27);
    assert_eq!(collect(&rig, &buffers, &used), merged(large, 27));
    buffers.extend(rig.add_rx(&[1526; 1]));
    rig.ring(RX);
    let used = rig.rx.used();
    assert_eq!(collect(&rig, &buffers, &used), merged(small, 1));
    assert_eq!(rig.counters().rx_dropped, 0);
}

#[test]
fn a_frame_that_all_buffers_of_a_driver_cannot_hold_is_dropped() {
    let mut rig = Rig::with(config(Some(MAC)), COMMON, 8);
    let buffers = rig.add_rx(&[1526; 8]);
    rig.ring(RX);
    rig.wire.offer(&frame(30_000, 0));
    rig.wire.offer(&frame(8 * 1526, 1));
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(collect(&rig, &buffers, &used), merged(frame(8 * 1526, 1), 8));
    assert_eq!(rig.counters().rx_dropped, 1);
}

#[test]
fn a_driver_that_never_gives_more_buffers_loses_what_they_cannot_hold() {
    let mut rig = Rig::with(config(Some(MAC)), COMMON, 64);
    let buffers = rig.add_rx(&[1526; 8]);
    rig.ring(RX);
    rig.wire.offer(&frame(30_000, 0));
    rig.wire.offer(&frame(600, 1));
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(collect(&rig, &buffers, &used), merged(frame(600, 1), 1));
    assert_eq!(rig.counters().rx_dropped, 1);
}

#[test]
fn a_useless_buffer_is_no_obstacle_without_merging() {
    let mut rig = Rig::new(COMMON & !MERGE);
    let outside = Buffer {
        address: 1 << 40,
        len: 1526,
        writable: true,
    };
    rig.rx.add(&[outside]);
    let mut buffers = vec![outside];
    buffers.extend(rig.add_rx(&[1526; 3]));
    rig.ring(RX);
    for seed in 0..3 {
        rig.wire.offer(&frame(1526, seed));
    }
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!((used.len(), used[0].len), (4, 0));
    for (seed, used) in used[1..].iter().enumerate() {
        assert_eq!(
            collect(&rig, &buffers, &[*used]),
            merged(frame(1526, seed as u8), 1)
        );
    }
}

#[test]
fn without_merging_a_frame_needs_one_buffer_that_holds_it() {
    let mut rig = Rig::new(COMMON & !MERGE);
    let buffers = rig.add_rx(&[500, 1526, 1526]);
    rig.ring(RX);
    for (len, seed) in [(1526, 1), (400, 2), (1526, 3)] {
        rig.wire.offer(&frame(len, seed));
    }
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(used.len(), 2);
    assert_eq!(collect(&rig, &buffers, &used[..1]), merged(frame(400, 2), 1));
    assert_eq!(collect(&rig, &buffers, &used[1..]), merged(frame(1526, 3), 1));
    assert_eq!(rig.counters().rx_dropped, 1);
    assert_eq!(
        rig.rx.contents(buffers[2]),
        vec![0xa5; 1526],
        "the spill never reaches the next buffer"
    );
}

#[test]
fn useless_buffers_go_back_empty_and_the_others_work() {
    let mut rig = Rig::new(COMMON);
    let good = rig.rx.writable(2000);
    let readable = rig.rx.readable(&[0; 2000]);
    let tiny = Buffer { len: 11, ..good };
    let outside = Buffer {
        address: 1 << 40,
        ..good
    };
    let useless: Vec<u16> = [readable, tiny, outside]
        .iter()
        .map(|buffer| rig.rx.add(&[*buffer]))
        .collect();
    let first = rig.rx.add(&[good]);
    let middle = rig.rx.add(&[outside]);
    let other = rig.rx.writable(70_000);
    let last = rig.rx.add(&[other]);
    rig.ring(RX);
    rig.wire.offer(&frame(3000, 1));
    rig.arrive();
    let used = rig.rx.used();
    let expected: Vec<_> = useless
        .iter()
        .map(|head| (*head, 0))
        .chain([(first, 2000), (middle, 0), (last, 1000)])
        .collect();
    assert_eq!(
        used.iter().map(|used| (used.head, used.len)).collect::<Vec<_>>(),
        expected
    );
    let bytes = [
        rig.rx.contents(good),
        rig.rx.contents(Buffer { len: 1000, ..other }),
    ]
    .concat();
    assert_eq!(
        bytes,
        merged(frame(3000, 1), 2),
        "a useless buffer does not count"
    );
    assert_eq!(rig.counters().rx_fails, 4);
}

#[test]
fn a_buffer_of_more_descriptors_than_any_driver_needs_is_useless() {
    let mut rig = Rig::new(COMMON);
    let mut pieces = vec![rig.rx.writable(0); 1024];
    pieces.push(rig.rx.writable(200));
    let useless = rig.rx.add_indirect(&pieces);
    rig.add_rx(&[200]);
    rig.wire.offer(&frame(80, 0));
    rig.arrive();
    let lens: Vec<_> = rig.rx.used().iter().map(|used| (used.head, used.len)).collect();
    assert_eq!(lens, [(useless, 0), (useless + 1, 80)]);
    assert_eq!(rig.counters().rx_fails, 1);
}

#[test]
fn a_driver_that_did_not_ask_for_checksum_flags_gets_none() {
    for (features, flags) in [(COMMON, 3), (MERGE, 0)] {
        let mut rig = Rig::new(features);
        let buffers = rig.add_rx(&[1526]);
        rig.ring(RX);
        let mut sent = frame(60, 1);
        sent[0] = 3;
        rig.wire.offer(&sent);
        rig.arrive();
        assert_eq!(rig.rx.contents(buffers[0])[0], flags);
    }
}

#[test]
fn a_flood_leaves_others_their_turn() {
    let mut rig = Rig::new(COMMON);
    rig.add_rx(&[128; 256]);
    for seed in 0..=255 {
        rig.wire.offer(&frame(60, seed));
    }
    rig.net.process_backend(0, event_manager::EventSet::IN).unwrap();
    assert_eq!(rig.rx.used().len(), TURN_FRAMES as usize);
    rig.settle();
    assert_eq!(rig.rx.used().len(), 256 - TURN_FRAMES as usize);
    assert_eq!(rig.wire.waiting(), 0);
    assert!(rig.line.take() <= 256 / 16, "far fewer interrupts than frames");
}

#[test]
fn a_guest_that_keeps_adding_useless_buffers_does_not_hold_the_loop() {
    let mut rig = Rig::with(config(Some(MAC)), 0, 16);
    let useless = rig.rx.readable(&[0; 64]);
    let useful = rig.rx.writable(1526);
    for buffer in [[useless; 15].as_slice(), &[useful]].concat() {
        rig.rx.add(&[buffer]);
    }
    // Another vCPU makes the whole ring available again and again, without a look at what comes back.
    let (memory, index) = (rig.memory.clone(), GuestAddress(rig.rx.avail_ring() + 2));
    rig.wire.cable(|cable| {
        cable.before_receive = Some(Box::new(move || {
            let available: u16 = memory.read_obj(index).unwrap();
            memory.write_obj(available.wrapping_add(16), index).unwrap();
        }));
    });
    for seed in 0..40 {
        rig.wire.offer(&frame(60, seed));
    }
    rig.net.process_backend(0, event_manager::EventSet::IN).unwrap();
    assert!(rig.wire.waiting() > 30, "{} frames are left", rig.wire.waiting());
    rig.settle();
    assert_eq!(rig.wire.waiting(), 0, "it goes on in its next turns");
}

#[test]
fn a_backend_that_is_gone_is_counted_and_wakes_nobody() {
    let mut rig = Rig::new(COMMON);
    let buffers = rig.add_rx(&[1526; 2]);
    rig.wire.cable(|cable| cable.receive_error = Some(libc::EBADFD));
    rig.ring(RX);
    rig.arrive();
    assert_eq!(rig.settle(), 0);
    assert_eq!(rig.counters().tap_read_fails, 2);
    rig.send(&frame(60, 0));
    assert_eq!(rig.wire.take_sent().len(), 1);
    rig.wire.cable(|cable| cable.receive_error = None);
    rig.wire.offer(&frame(60, 1));
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(collect(&rig, &buffers, &used), merged(frame(60, 1), 1));
}

#[test]
fn frames_over_the_rate_wait_for_the_timer() {
    let bytes = BucketConfig {
        size: 100,
        one_time_burst: 0,
        refill_time_ms: 20,
    };
    let limited = NetConfig {
        rx_limiter: RateLimiter::new(Some(bytes), None).unwrap(),
        ..config(Some(MAC))
    };
    let mut rig = Rig::with(limited, COMMON, 16);
    let buffers = rig.add_rx(&[1526; 16]);
    for seed in 0..3 {
        rig.wire.offer(&frame(80, seed));
    }
    rig.ring(RX);
    let mut used = rig.rx.used();
    assert_eq!(used.len(), 1);
    rig.arrive();
    assert!(rig.rx.used().is_empty());
    let timer = rig
        .net
        .backend_events()
        .into_iter()
        .find(|event| event.token == 1)
        .unwrap();
    while used.len() < 3 {
        transmit::wait_readable(timer.fd);
        rig.net.process_backend(timer.token, timer.events).unwrap();
        rig.settle();
        let more = rig.rx.used();
        assert_eq!(more.len(), 1, "each timer earns one frame");
        used.extend(more);
    }
    for (seed, used) in used.iter().enumerate() {
        assert_eq!(
            collect(&rig, &buffers, &[*used]),
            merged(frame(80, seed as u8), 1)
        );
    }
}

#[test]
fn pages_that_a_frame_touched_are_dirty_and_no_others() {
    let memory = tracked_memory(&[(0, MEMORY)]);
    let dirty = |memory: &GuestRam, page: u64| {
        let region = memory.find_region(GuestAddress(0)).unwrap();
        region.bitmap().dirty_at((page * 4096) as usize)
    };
    assert!(!dirty(&memory, 0));
    let mut rig = Rig::on(memory, config(Some(MAC)), COMMON, 16);
    let at = rig.rx.allocate(64 << 10).next_multiple_of(4096);
    let buffers = [0, 2, 4].map(|page| Buffer {
        address: at + page * 4096,
        len: 4096,
        writable: true,
    });
    for buffer in buffers {
        rig.rx.add(&[buffer]);
    }
    rig.ring(RX);
    rig.wire.offer(&frame(5000, 0));
    rig.arrive();
    let page = at / 4096;
    let marks: Vec<_> = (page..page + 5).map(|page| dirty(&rig.memory, page)).collect();
    assert_eq!(marks, [true, false, true, false, false]);
    let mut first = [0; 2];
    rig.memory.read_slice(&mut first, GuestAddress(at + 10)).unwrap();
    assert_eq!(first, [2, 0]);
}
