//! A guest and clients that do anything at all, by a seed that a failure prints.

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

    /// Mostly plausible, at times nonsense.
    fn header(&mut self, known: &[Ports]) -> Header {
        let guest = match known.get(self.roll(known.len() as u64 + 1) as usize) {
            Some(ports) => Guest::new(ports.guest, ports.host),
            None => Guest::new(self.roll(4) as u32, 50 + self.roll(4) as u32),
        };
        let op = self.roll(9) as u16;
        let mut header = Header {
            flags: self.roll(4) as u32,
            fwd_cnt: self.roll(100_000) as u32,
            buf_alloc: self.roll(300_000) as u32,
            ..guest.header(op)
        };
        match self.roll(20) {
            0 => header.src_cid = self.roll(5),
            1 => header.dst_cid = self.roll(u64::MAX),
            2 => header.socket_type = self.roll(4) as u16,
            3 => header.buf_alloc = 0,
            4 => header.fwd_cnt = self.roll(1 << 32) as u32,
            _ => {}
        }
        header
    }

    fn descriptor(&mut self, size: u16) -> Descriptor {
        let address = match self.roll(8) {
            0 => self.roll(u64::MAX),
            1 => MEMORY as u64 - self.roll(64),
            _ => 0x90_0000 + self.roll(8 << 20),
        };
        let len = match self.roll(6) {
            0 => self.roll(1 << 32),
            1 => self.roll(60),
            _ => 40 + self.roll(5000),
        };
        let next = self.roll(u64::from(size) + 1);
        Descriptor::new(address, len as u32, self.roll(8) as u16, next as u16)
    }
}

use super::super::connection::Ports;

fn misbehave(dice: &mut Dice, rig: &mut Rig, clients: &mut Vec<UnixStream>, servers: &[UnixListener]) {
    let known: Vec<_> = rig.vsock.hub().connections.values().map(|it| it.ports).collect();
    match dice.roll(12) {
        0..=4 => {
            let len = if dice.one_in(3) {
                dice.roll(9000)
            } else {
                dice.roll(10)
            } as usize;
            let mut header = dice.header(&known);
            header.len = len as u32;
            if dice.one_in(20) {
                header.len = dice.roll(1 << 32) as u32;
            }
            let buffer = rig.queues[TX].readable(&[&header.encode()[..], &vec![9; len]].concat());
            rig.queues[TX].add(&[buffer]);
        }
        5 => {
            let index = dice.roll(3) as usize;
            let queue = &mut rig.queues[index];
            for _ in 0..dice.roll(10) {
                let at = queue.take_descriptor();
                let descriptor = dice.descriptor(queue.size());
                queue.write_descriptor(at, descriptor);
                if dice.one_in(2) {
                    queue.publish(at);
                }
            }
        }
        6 => {
            for _ in 0..dice.roll(20) {
                let buffer = rig.queues[RX].writable(30 + dice.roll(3000) as usize);
                rig.queues[RX].add(&[buffer]);
            }
        }
        7 => {
            let mut client = UnixStream::connect(rig.path()).unwrap();
            client.set_nonblocking(true).unwrap();
            let line = format!("CONNECT {}\nand more", dice.roll(5));
            let _ = client.write(&line.as_bytes()[..dice.roll(line.len() as u64) as usize]);
            clients.push(client);
        }
        8 => {
            for server in servers {
                clients.extend(server.accept().map(|(client, _)| {
                    client.set_nonblocking(true).unwrap();
                    client
                }));
            }
        }
        9 if !clients.is_empty() => {
            let at = dice.roll(clients.len() as u64) as usize;
            clients.swap_remove(at);
        }
        10 if dice.one_in(10) => rig.queues[dice.roll(3) as usize].set_avail_index(dice.roll(1 << 16) as u16),
        _ => {
            for client in clients {
                let _ = client.write(&vec![1; dice.roll(20_000) as usize]);
                let _ = client.read(&mut vec![0; dice.roll(20_000) as usize]);
            }
        }
    }
}

fn a_good_driver_works(rig: &mut Rig, seed: u64) {
    rig.restart();
    rig.settle();
    rig.inbox.clear();
    let mut client = rig.client(4000);
    let request = loop {
        let packet = rig.next();
        if packet.header.dst_port == 4000 {
            break packet.header;
        }
    };
    let guest = Guest::answering(&request);
    rig.send(guest.header(op::RESPONSE), &[]);
    rig.send(guest.header(op::RW), b"works");
    let line = format!("OK {}\nworks", request.src_port);
    assert_eq!(
        read_exactly(&mut client, line.len()),
        line.as_bytes(),
        "seed {seed}"
    );
}

#[test]
fn no_guest_and_no_client_can_break_the_device() {
    for seed in 1..=60u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut rig = Rig::with_event_index(dice.one_in(2));
        let servers: Vec<_> = (50..53)
            .map(|port| {
                let server = rig.server(port);
                server.set_nonblocking(true).unwrap();
                server
            })
            .collect();
        let mut clients = Vec::new();
        for _ in 0..300 {
            misbehave(&mut dice, &mut rig, &mut clients, &servers);
            let result = match dice.roll(4) {
                0 => rig.vsock.process_queue(RX),
                1 => rig.vsock.process_queue(TX),
                2 => rig.vsock.process_queue(EVENT),
                _ => rig.vsock.process_backend(0, EventSet::IN),
            };
            let hub = rig.vsock.hub();
            assert!(
                hub.connections
                    .values()
                    .all(|it| it.kept.len() <= it.window as usize),
                "seed {seed}"
            );
            if result.is_err() {
                a_good_driver_works(&mut rig, seed);
            }
        }
        drop(clients);
        a_good_driver_works(&mut rig, seed);
    }
}
