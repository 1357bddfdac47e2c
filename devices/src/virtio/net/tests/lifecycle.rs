use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU};
use virtio_queue::QueueT;

use super::*;
use crate::rate_limiter::{BucketConfig, BucketUpdate};
use crate::state::{RestoreError, Snapshot};
use crate::virtio::device::ActivateError;
use crate::virtio::queue::ActiveQueue;

#[test]
fn the_configuration_shows_what_was_configured() {
    let plain = Net::new(config(None), Wire::new()).unwrap();
    assert_eq!(
        plain.features() & (1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU),
        0
    );
    let full = Net::new(
        NetConfig {
            mtu: Some(1400),
            ..config(Some(MAC))
        },
        Wire::new(),
    )
    .unwrap();
    assert_eq!(
        full.features() & (1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU),
        1 << 5 | 1 << 3
    );
    assert_eq!(full.device_type(), 1);
    assert_eq!(full.queue_max_sizes(), [256, 256]);
    let mut bytes = [0xff; 16];
    bytes[12..].fill(0);
    full.read_config(0, &mut bytes);
    assert_eq!(bytes, [6, 0, 0xc0, 0xa8, 0, 2, 0, 0, 0, 0, 0x78, 5, 0, 0, 0, 0]);
    let mut two = [0; 2];
    full.read_config(10, &mut two);
    assert_eq!(u16::from_le_bytes(two), 1400);
}

#[test]
fn a_driver_cannot_change_the_configuration() {
    let mut rig = Rig::new(COMMON);
    rig.net.write_config(0, &[9; 6]);
    let mut mac = [0; 6];
    rig.net.read_config(0, &mut mac);
    assert_eq!(mac, MAC);
    assert_eq!(rig.counters().cfg_fails, 1);
}

#[test]
fn an_mtu_below_what_a_network_needs_is_refused() {
    let refused = Net::new(
        NetConfig {
            mtu: Some(67),
            ..config(None)
        },
        Wire::new(),
    )
    .err()
    .unwrap();
    assert_eq!(
        refused.to_string(),
        "an MTU of 67 is too small: it must be at least 68"
    );
    for mtu in [68, 65_535] {
        assert!(
            Net::new(
                NetConfig {
                    mtu: Some(mtu),
                    ..config(None)
                },
                Wire::new()
            )
            .is_ok()
        );
    }
}

#[test]
fn the_backend_gets_the_offloads_that_the_driver_chose_and_loses_them_on_reset() {
    let mut rig = Rig::new(COMMON | 1 << VIRTIO_NET_F_GUEST_TSO4);
    rig.wire.offer(&frame(60_000, 0));
    rig.net.reset();
    let seen = rig.wire.cable(|cable| cable.offloads.clone());
    let tso4 = Offloads {
        checksum: true,
        tso4: true,
        ..Offloads::default()
    };
    assert_eq!(seen, [tso4, Offloads::default()]);
    assert_eq!(
        rig.wire.waiting(),
        0,
        "a frame for the last driver is not for the next"
    );
}

#[test]
fn a_reset_in_the_middle_leaves_nothing_behind() {
    let mut rig = Rig::new(COMMON);
    rig.add_rx(&[1526; 20]);
    rig.ring(RX);
    rig.wire.offer(&frame(20_000, 0));
    rig.arrive();
    let before = rig.rx.used().len();
    rig.wire.offer(&frame(30_000, 0));
    rig.arrive();
    assert_eq!(rig.rx.used_index() as usize, before, "a frame waits for buffers");
    rig.net.reset();
    assert!(rig.net.queue_positions().is_empty());
    // Late events of the old life.
    rig.net.process_queue(RX).unwrap();
    rig.net.process_queue(TX).unwrap();
    rig.net.process_backend(0, event_manager::EventSet::IN).unwrap();
    rig.net.process_backend(7, event_manager::EventSet::IN).unwrap();
    assert_eq!(rig.rx.used_index() as usize, before);

    rig.rx = MockQueue::new(&rig.memory, 0x1000, 64);
    rig.tx = MockQueue::new(&rig.memory, 0x100_0000, 64);
    rig.activate(COMMON);
    let buffers = rig.add_rx(&[1526; 2]);
    rig.ring(RX);
    rig.wire.offer(&frame(60, 7));
    rig.arrive();
    let used = rig.rx.used();
    assert_eq!(used.len(), 1);
    assert_eq!(rig.rx.contents(buffers[0])[12..60], frame(60, 7)[12..]);
    rig.send(&frame(60, 8));
    assert_eq!(rig.wire.take_sent(), [frame(60, 8)]);
}

#[test]
fn both_queues_are_needed() {
    let mut rig = Rig::new(COMMON);
    rig.net.reset();
    for missing in [RX, TX] {
        let queues = [&rig.rx, &rig.tx].into_iter().enumerate().map(|(index, mock)| {
            let mut queue = mock.queue();
            queue.set_ready(index != missing);
            ActiveQueue::new(
                queue,
                rig.memory.clone(),
                rig.line.clone(),
                rig.bells[index].clone(),
            )
            .unwrap()
        });
        let activation = Activation {
            memory: rig.memory.clone(),
            queues: queues.collect(),
            features: COMMON,
        };
        let error = rig.net.activate(activation).unwrap_err();
        assert!(
            matches!(error, ActivateError::QueueMissing(index) if index == missing),
            "{error}"
        );
    }
    assert_eq!(rig.counters().activate_fails, 2);
}

#[test]
fn a_restored_device_goes_on_where_the_saved_one_was() {
    let bytes = BucketConfig {
        size: 1 << 20,
        one_time_burst: 0,
        refill_time_ms: 1000,
    };
    let limited = NetConfig {
        mtu: Some(9000),
        rx_limiter: RateLimiter::new(Some(bytes), None).unwrap(),
        ..config(Some(MAC))
    };
    let mut rig = Rig::with(limited, COMMON, 64);
    let buffers = rig.add_rx(&[1526; 60]);
    rig.ring(RX);
    rig.wire.offer(&frame(60, 1));
    rig.arrive();
    assert_eq!(rig.rx.used().len(), 1);
    let positions = rig.net.queue_positions();
    assert_eq!(
        (positions[RX].next_avail, positions[RX].next_used),
        (1, 1),
        "buffers at hand count as available"
    );
    let json = serde_json::to_string(&rig.net.save()).unwrap();

    let wire = Wire::new();
    let mut net = Net::new(config(None), wire.clone()).unwrap();
    net.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!((net.mac(), net.mtu()), (Some(MAC), Some(9000)));
    assert_eq!(net.limiters().0.limits().0, Some(bytes));
    let queues =
        [&rig.rx, &rig.tx]
            .into_iter()
            .zip(positions)
            .zip(&rig.bells)
            .map(|((mock, position), bell)| {
                let mut queue = mock.queue();
                queue.set_next_avail(position.next_avail);
                queue.set_next_used(position.next_used);
                ActiveQueue::new(queue, rig.memory.clone(), rig.line.clone(), bell.clone()).unwrap()
            });
    let activation = Activation {
        memory: rig.memory.clone(),
        queues: queues.collect(),
        features: COMMON,
    };
    net.activate(activation).unwrap();
    (rig.net, rig.wire) = (net, wire);

    rig.wire.offer(&frame(61, 2));
    rig.net.kick().unwrap();
    assert!(rig.settle() > 0);
    let used = rig.rx.used();
    assert_eq!(
        used.iter().map(|used| (used.head, used.len)).collect::<Vec<_>>(),
        [(1, 61)]
    );
    assert_eq!(rig.rx.contents(buffers[1])[12..61], frame(61, 2)[12..]);
    rig.send(&frame_from([2; 6], 60, 0));
    assert!(
        rig.wire.take_sent().is_empty(),
        "the restored device knows its guest's address"
    );
}

#[test]
fn states_that_were_never_saved_are_refused() {
    let good = Net::new(config(Some(MAC)), Wire::new()).unwrap().save();
    let restore = |state: &NetState| Net::new(config(None), Wire::new()).unwrap().restore(state);
    assert!(restore(&good).is_ok());
    let newer = NetState {
        version: 2,
        ..good.clone()
    };
    assert!(matches!(
        restore(&newer),
        Err(RestoreError::Version {
            found: 2,
            supported: 1,
            ..
        })
    ));
    let small = NetState { mtu: Some(0), ..good };
    assert!(matches!(
        restore(&small),
        Err(RestoreError::Field { field: "mtu", .. })
    ));
}

#[test]
fn limits_can_be_set_and_lifted_while_the_device_runs() {
    let mut rig = Rig::new(COMMON);
    assert_eq!(rig.net.backend_events().len(), 1, "no limit, no timer");
    let one = BucketConfig {
        size: 1,
        one_time_burst: 0,
        refill_time_ms: 30,
    };
    let keep = LimitUpdate {
        bytes: BucketUpdate::Keep,
        ops: BucketUpdate::Keep,
    };
    let limit = LimitUpdate {
        ops: BucketUpdate::Replace(one),
        ..keep
    };
    rig.net.update_limits(keep, limit).unwrap();
    let timer = rig.net.backend_events()[1];
    for seed in 0..2 {
        rig.send(&frame(60, seed));
    }
    assert_eq!(rig.wire.take_sent(), [frame(60, 0)]);
    let lift = LimitUpdate {
        ops: BucketUpdate::Disable,
        ..keep
    };
    rig.net.update_limits(keep, lift).unwrap();
    transmit::wait_readable(timer.fd);
    rig.net.process_backend(timer.token, timer.events).unwrap();
    assert_eq!(rig.wire.take_sent(), [frame(60, 1)]);
    for seed in 2..9 {
        rig.send(&frame(60, seed));
    }
    assert_eq!(rig.wire.take_sent().len(), 7);
}
