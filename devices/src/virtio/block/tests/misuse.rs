//! A guest that does what it likes: nothing panics, nothing hangs, and only sectors that it may write change.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;

/// xorshift64*, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Requests may change these sectors only; the rest of the file must stay as it is.
const OPEN: std::ops::Range<u64> = 16..32;

fn random_header(random: &mut Random) -> Vec<u8> {
    let request_type = random.pick(&[IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 2, 99]);
    let sector = match request_type {
        OUT if random.below(4) == 0 => random.pick(&[SECTORS, u64::MAX, u64::MAX / 512, 1 << 54]),
        OUT => OPEN.start + random.below(8),
        _ => random.pick(&[0, 1, SECTORS - 1, SECTORS, u64::MAX, 1 << 55]),
    };
    let mut data = header(request_type, sector);
    match request_type {
        OUT => data.resize(16 + 512 * random.below(8) as usize, 0xee),
        DISCARD | WRITE_ZEROES => {
            for _ in 0..random.below(3) {
                let start = OPEN.start + random.below(20);
                let count = random.pick(&[0, 1, 2, 8, u32::MAX, 1 << 22]);
                let inside = start + u64::from(count) <= OPEN.end;
                let start = if inside {
                    start
                } else {
                    random.pick(&[SECTORS, u64::MAX])
                };
                data.extend(range(start, count, random.pick(&[0, 0, 1, 2, u32::MAX])));
            }
        }
        _ => {}
    }
    data
}

/// Cuts `data` and some room into descriptors, a few of which are then spoilt.
fn random_chain(machine: &mut Machine, random: &mut Random) -> Vec<Buffer> {
    let data = random_header(random);
    let whole = machine.queue.readable(&data);
    let mut chain = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let len = (1 + random.below(40) as usize * random.below(40) as usize).min(data.len() - at);
        chain.push(Buffer {
            address: whole.address + at as u64,
            len: len as u32,
            writable: false,
        });
        at += len;
    }
    let rooms: &[usize] = match (random.below(4), data[0]) {
        (0, _) => &[1, 2, 20, 511, 512, 513, 4096],
        (_, 0) => &[513, 1025, 4097],
        (_, 8) => &[21],
        _ => &[1],
    };
    for _ in 0..if random.below(4) == 0 { random.below(4) } else { 1 } {
        let len = random.pick(rooms);
        chain.push(machine.queue.writable(len));
    }
    if random.below(4) == 0 && !chain.is_empty() {
        let index = random.below(chain.len() as u64) as usize;
        // Only writable buffers are spoilt: a readable one elsewhere could be a valid write to any sector.
        if chain[index].writable {
            chain[index].address =
                random.pick(&[0, MEMORY as u64 - 3, MEMORY as u64, u64::MAX, u64::MAX - 7]);
            chain[index].len = random.pick(&[0, 1, 100, 1 << 20, u32::MAX]);
        }
    }
    if random.below(8) == 0 {
        chain.reverse();
    }
    chain
}

fn spoil_ring(machine: &mut Machine, random: &mut Random) {
    let index = random.below(256) as u16;
    let flags = random.pick(&[0, 1, 2, 3, 4, 5, 7, 0xffff]);
    let address = random.pick(&[0x1000, MEMORY as u64, u64::MAX, machine.queue.desc_table()]);
    let len = random.pick(&[0, 16, 32, 4096, u32::MAX]);
    machine.queue.write_descriptor(
        index,
        Descriptor::new(address, len, flags | 2, random.next() as u16),
    );
    machine.queue.publish(random.next() as u16);
}

fn restart(machine: &mut Machine, event_index: bool) {
    machine.block.reset();
    machine.queue = MockQueue::new(&machine.memory, QUEUE_BASE, 256);
    machine.activate(if event_index { 0 } else { features::F_EVENT_IDX });
}

/// Returns how many requests were refused, and how many reads, writes and changes of ranges were done.
fn play(engine: Engine, seed: u64) -> [u64; 4] {
    let mut random = Random(seed);
    // In memory, where thousands of flushes cost nothing.
    let file = fill(TempFile::new_in(Path::new("/dev/shm")).unwrap(), SECTORS);
    let backend = engine.open(file.as_path(), false);
    let mut machine = Machine::with_backend(Options::default(), backend, file);
    for _ in 0..300 {
        for _ in 0..random.below(5) {
            let chain = random_chain(&mut machine, &mut random);
            if chain.is_empty() || chain.len() > 200 || random.below(3) == 0 {
                machine.queue.add_indirect(&chain);
            } else {
                machine.queue.add(&chain);
            }
        }
        if random.below(10) == 0 {
            spoil_ring(&mut machine, &mut random);
        }
        if random.below(40) == 0 {
            machine.queue.set_avail_index(random.next() as u16);
        }
        let result = machine.block.process_queue(0);
        if random.below(3) == 0 {
            let _ = machine
                .block
                .process_backend(random.below(3) as u32, EventSet::IN);
        }
        if result.is_err() || random.below(20) == 0 {
            restart(&mut machine, random.below(2) == 0);
        }
    }
    restart(&mut machine, false);
    let (start, end) = (OPEN.start * 512, OPEN.end * 512);
    assert_eq!(
        machine.file.as_file().metadata().unwrap().len(),
        SECTORS * 512,
        "seed {seed}"
    );
    assert_eq!(
        machine.disk(0, start as usize),
        pattern_at(0, start as usize),
        "seed {seed}"
    );
    let rest = (SECTORS * 512 - end) as usize;
    assert_eq!(machine.disk(end, rest), pattern_at(end, rest), "seed {seed}");
    assert_eq!(machine.read(0, 512).data(), pattern_at(0, 512), "seed {seed}");
    let metrics = machine.block.take_metrics();
    [
        metrics.invalid_reqs_count,
        metrics.read_count,
        metrics.write_count,
        metrics.discard_count,
    ]
}

#[test]
fn a_guest_that_misuses_its_disk_harms_only_itself() {
    for (engine, seeds) in [(Engine::Sync, 1..=40), (Engine::Async, 41..=60)] {
        let counts: Vec<_> = seeds.map(|seed| play(engine, seed)).collect();
        for kind in 0..4 {
            let done: u64 = counts.iter().map(|counts| counts[kind]).sum();
            assert!(done > 60, "the game is too tame: {counts:?}");
        }
    }
}

#[test]
fn bytes_of_noise_as_rings_harm_nobody() {
    for seed in 1..=60 {
        let mut random = Random(seed);
        let mut machine = Machine::new(Options {
            read_only: seed % 2 == 0,
            ..Default::default()
        });
        let noise: Vec<u8> = (0..64 << 10)
            .map(|_| (random.next() >> random.below(60)) as u8)
            .collect();
        machine
            .memory
            .write_slice(&noise, GuestAddress(QUEUE_BASE))
            .unwrap();
        for _ in 0..8 {
            machine.queue.set_avail_index(random.below(256) as u16);
            let _ = machine.block.process_queue(0);
            let _ = machine.block.process_backend(0, EventSet::IN);
        }
        restart(&mut machine, true);
        assert_eq!(machine.read(63, 512).status(), OK, "seed {seed}");
    }
}
