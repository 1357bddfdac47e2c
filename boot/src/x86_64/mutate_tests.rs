//! Thousands of kernels with a few wrong bytes each: `load` answers with a state or an error, never with
//! a panic, and no kernel gets over the tables.

#![allow(clippy::arithmetic_side_effects)]

use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_support::{BzImage, Elf, Segment as ElfSegment, TestFile, memory_with};

const ROUNDS: usize = 3000;
const MEMORY: u64 = 32 << 20;
/// Numbers at which checks go wrong.
const NUMBERS: [u64; 16] = [
    0,
    1,
    0x1000,
    layout::START_PAGE,
    layout::ZERO_PAGE + 0x800,
    layout::LOW_RAM_END - 1,
    layout::FIRMWARE,
    0xf_ffff,
    0x10_0000,
    MEMORY - 1,
    MEMORY,
    0xc000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 63,
    u64::MAX,
];

/// Marsaglia's xorshift: the same rounds on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Changes a few things in `headers` of the file, or its length.
fn mutate(bytes: &mut Vec<u8>, headers: std::ops::Range<usize>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let offset = headers.start + random.below(headers.len());
        let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
        match random.below(8) {
            0 => bytes[offset] = random.next() as u8,
            1..=2 => bytes[offset] ^= 1 << random.below(8),
            3 => bytes[offset..offset + 2].copy_from_slice(&number[..2]),
            4 => bytes[offset..offset + 4].copy_from_slice(&number[..4]),
            // Most fields that matter have eight bytes and a place that is a multiple of eight.
            5..=6 => bytes[offset & !7..(offset & !7) + 8].copy_from_slice(&number),
            _ => {
                let length = random.below(bytes.len()).max(headers.end + 8);
                bytes.truncate(length);
            }
        }
    }
}

/// Where the loadable parts of a file belong: address and bytes, read without the code under test.
fn parts(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let number = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    if bytes[..4] != *b"\x7fELF" {
        let sectors = if bytes[0x1f1] == 0 {
            4
        } else {
            usize::from(bytes[0x1f1])
        };
        return vec![(layout::HIMEM_START, &bytes[(sectors + 1) * 512..])];
    }
    let (table, count) = (number(32) as usize, u16::from_le_bytes([bytes[56], bytes[57]]));
    let headers = (0..usize::from(count)).map(|index| table + index * 56);
    headers
        .filter(|&header| number(header) as u32 == 1 && number(header + 32) != 0)
        .map(|header| {
            (
                number(header + 24),
                &bytes[number(header + 8) as usize..][..number(header + 32) as usize],
            )
        })
        .collect()
}

/// The files of a round and the machine they boot.
struct Round {
    kernel: TestFile,
    initrd: TestFile,
    cmdline: Cmdline,
    firmware: Vec<u8>,
}

const MACHINE: Machine<'static> = Machine {
    vcpus: 4,
    virtio_mmio: &[],
    serial: Some(SerialPort::COM1),
    i8042: true,
    ioapic_id: 4,
};
const INITRD: [u8; 4097] = [0xaa; 4097];

impl Round {
    fn new() -> Self {
        Self {
            kernel: TestFile::new(b""),
            initrd: TestFile::new(&INITRD),
            cmdline: Cmdline::new("console=ttyS0").unwrap(),
            firmware: firmware::build(&MACHINE),
        }
    }

    /// Loads a kernel, checks what became of memory, and tells whether the kernel was taken.
    fn run(&self, bytes: &[u8]) -> bool {
        self.kernel.file.set_len(bytes.len() as u64).unwrap();
        self.kernel.file.write_all_at(bytes, 0).unwrap();
        let memory = memory_with(MEMORY);
        let source = BootSource {
            kernel: self.kernel.image(),
            initrd: Some(self.initrd.image()),
            cmdline: &self.cmdline,
        };
        let result = load(&memory, &MACHINE, &source);
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        };
        let Ok(start) = result else {
            let mut low = read(0, layout::START_TABLES_END as usize);
            low.extend(read(layout::FIRMWARE, 0x1_1000));
            let top = read(MEMORY - 0x3000, 0x3000);
            assert!(
                low.iter().chain(&top).all(|&byte| byte == 0),
                "a refused kernel writes nothing"
            );
            return false;
        };
        let tables = read(layout::START_PAGE, 0x2000);
        let initrd = match start.protocol {
            Protocol::Linux64 => &tables[0x1000 + 0x218..],
            Protocol::Pvh => &tables[0xc0..],
        };
        let initrd = u32::from_le_bytes(initrd[..4].try_into().unwrap());
        assert_eq!(read(u64::from(initrd), INITRD.len()), INITRD);
        assert!(read(layout::FIRMWARE, self.firmware.len()) == self.firmware);
        assert_eq!(&tables[0x800..0x80e], b"console=ttyS0\0");
        assert_eq!(tables[16..24], start.cs.descriptor().to_le_bytes());
        let parts = parts(bytes);
        for (address, part) in &parts {
            assert!(
                read(*address, part.len()) == *part,
                "the part at {address:#x} is whole"
            );
        }
        assert!(
            parts
                .iter()
                .all(|&(address, _)| !(layout::LOW_RAM_END..layout::HIMEM_START).contains(&address))
        );
        assert!(start.registers.rip < MEMORY);
        true
    }
}

/// Runs the rounds and tells how many kernels were taken.
fn run(kernel: &[u8], headers: std::ops::Range<usize>, seed: u64) -> usize {
    let (round, mut random) = (Round::new(), Random(seed));
    let mutants = (0..ROUNDS).map(|_| {
        let mut bytes = kernel.to_vec();
        mutate(&mut bytes, headers.clone(), &mut random);
        bytes
    });
    mutants.filter(|bytes| round.run(bytes)).count()
}

/// Both outcomes must be common, or the rounds would prove little.
fn both_happen(taken: usize) {
    assert!(
        (ROUNDS / 50..ROUNDS * 49 / 50).contains(&taken),
        "{taken} of {ROUNDS} were taken"
    );
}

#[test]
fn mutated_elf_headers() {
    let data = ElfSegment {
        memory: 0x4000,
        ..ElfSegment::load(0x20_0000, &[3; 6000])
    };
    let elf = Elf::at(0x10_0000, &[0xf4; 300]).with(data);
    both_happen(run(&elf.build(), 0..64 + 2 * 56, 0x9e37_79b9_7f4a_7c15));
}

#[test]
fn mutated_pvh_kernels() {
    let elf = Elf::at(0x10_0000, &[0xf4; 300]).with_pvh(0x10_0010);
    let kernel = elf.build();
    let notes = kernel.len() - 20;
    both_happen(run(&kernel, 16..64 + 2 * 56, 0xd1b5_4a32_d192_ed03));
    both_happen(run(&kernel, notes..kernel.len() - 8, 0x94d0_49bb_1331_11eb));
}

#[test]
fn mutated_setup_headers() {
    let image = BzImage::new(&[0x90; 6000]).build();
    both_happen(run(&image, 0x1f0..0x270, 0xbf58_476d_1ce4_e5b9));
}
