//! A guest and a network that do anything at all, by a seed that a failure prints.

use virtio_queue::desc::split::Descriptor;

use super::*;

/// xorshift64*: repeatable and good enough to choose misdeeds.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// Mostly a plausible descriptor, at times nonsense.
fn descriptor(dice: &mut Dice, size: u16) -> Descriptor {
    let address = match dice.roll(8) {
        0 => dice.roll(u64::MAX),
        1 => MEMORY as u64 - dice.roll(64),
        2 => dice.roll(0x4000),
        _ => 0x20_0000 + dice.roll(8 << 20),
    };
    let len = match dice.roll(8) {
        0 => dice.roll(1 << 32) as u32,
        1 => dice.roll(30) as u32,
        2 => dice.roll(70_000) as u32,
        _ => 64 + dice.roll(2000) as u32,
    };
    let flags = if dice.one_in(6) {
        dice.roll(0x1_0000)
    } else {
        dice.roll(4)
    } as u16;
    let next = if dice.one_in(8) {
        dice.roll(0x1_0000) as u16
    } else {
        dice.roll(u64::from(size)) as u16
    };
    Descriptor::new(address, len, flags, next)
}

fn misbehave(dice: &mut Dice, rig: &mut Rig) {
    let index = dice.roll(2) as usize;
    let queue = if index == RX { &mut rig.rx } else { &mut rig.tx };
    let size = queue.size();
    match dice.roll(12) {
        0..=4 => {
            for _ in 0..dice.roll(20) {
                let at = queue.take_descriptor();
                queue.write_descriptor(at, descriptor(dice, size));
                if dice.one_in(2) {
                    queue.publish(dice.roll(u64::from(size) + 2) as u16);
                }
            }
        }
        5 => {
            let pieces: Vec<_> = (0..=dice.roll(5))
                .map(|_| Buffer {
                    address: 0x20_0000 + dice.roll(1 << 20),
                    len: dice.roll(3000) as u32,
                    writable: index == RX,
                })
                .collect();
            queue.add_indirect(&pieces);
        }
        6 => rig
            .wire
            .offer(&frame(26 + dice.roll(65_536) as usize, dice.roll(256) as u8)),
        7 => {
            for _ in 0..dice.roll(300) {
                rig.wire
                    .offer(&vec![dice.roll(256) as u8; dice.roll(120) as usize]);
            }
        }
        8 => rig.wire.cable(|cable| {
            cable.send_error = dice.one_in(2).then_some(libc::EINVAL);
            cable.receive_error = dice.one_in(4).then_some(libc::EIO);
        }),
        9 if dice.one_in(6) => queue.set_avail_index(dice.roll(0x1_0000) as u16),
        10 => queue.set_no_interrupt(dice.one_in(2)),
        _ => rig.wire.cable(|cable| cable.sent.clear()),
    }
}

/// Starts over with a well-behaved driver, which must find a working device.
fn a_good_driver_works(rig: &mut Rig, seed: u64) {
    rig.wire
        .cable(|cable| (cable.send_error, cable.receive_error) = (None, None));
    rig.net.reset();
    rig.wire.cable(|cable| cable.incoming.clear());
    rig.rx = MockQueue::new(&rig.memory, 0x1000, 32);
    rig.tx = MockQueue::new(&rig.memory, 0x100_0000, 32);
    rig.activate(COMMON);
    rig.wire.take_sent();
    rig.send(&frame(300, 1));
    assert_eq!(rig.wire.take_sent(), [frame(300, 1)], "seed {seed}");
    let buffers = rig.add_rx(&[200; 2]);
    rig.ring(RX);
    rig.wire.offer(&frame(300, 2));
    rig.arrive();
    let bytes = [rig.rx.contents(buffers[0]), rig.rx.contents(buffers[1])].concat();
    assert_eq!(bytes[12..300], frame(300, 2)[12..], "seed {seed}");
}

#[test]
fn no_guest_and_no_network_can_break_the_device() {
    for seed in 1..=150u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let size = 1 << dice.roll(8);
        let features = if dice.one_in(2) {
            COMMON
        } else {
            dice.roll(u64::MAX)
        };
        let mac = dice.one_in(2).then_some(MAC);
        let mut rig = Rig::with(config(mac), features, size);
        for _ in 0..60 {
            misbehave(&mut dice, &mut rig);
            let result = match dice.roll(3) {
                0 => rig.net.process_queue(RX),
                1 => rig.net.process_queue(TX),
                _ => rig
                    .net
                    .process_backend(dice.roll(4) as u32, event_manager::EventSet::IN),
            };
            // One more turn for a queue that rang its own doorbell; a hostile guest may keep it ringing.
            let _ = rig.bells.iter().map(|bell| bell.read()).collect::<Vec<_>>();
            if result.is_err() || dice.one_in(40) {
                a_good_driver_works(&mut rig, seed);
            }
        }
        assert!(rig.net.most_pieces() <= 2048, "seed {seed}");
        a_good_driver_works(&mut rig, seed);
    }
}
