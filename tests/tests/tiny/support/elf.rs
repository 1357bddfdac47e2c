//! ELF files with one mistake in them.

/// `e_machine` of x86-64.
pub const X86_64: u16 = 62;
/// `e_machine` of aarch64.
pub const AARCH64: u16 = 183;

/// One loadable segment: all of its bytes are the file's first.
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes in the file.
    pub in_file: u64,
    /// Bytes in memory.
    pub in_memory: u64,
}

/// An ELF64 executable of 4 KiB whose entry is at 1 MiB.
pub fn file(machine: u16, segments: &[Segment]) -> Vec<u8> {
    let count = u16::try_from(segments.len()).unwrap();
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |value: u16, bytes: &mut Vec<u8>| bytes.extend(value.to_le_bytes());
    half(2, &mut bytes); // ET_EXEC
    half(machine, &mut bytes);
    bytes.extend(1_u32.to_le_bytes());
    for value in [0x10_0000_u64, 64, 0] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for value in [64, 56, count, 64, 0, 0] {
        half(value, &mut bytes);
    }
    for segment in segments {
        bytes.extend(1_u32.to_le_bytes()); // PT_LOAD
        bytes.extend(7_u32.to_le_bytes());
        let Segment {
            address,
            in_file,
            in_memory,
        } = *segment;
        for value in [0, address, address, in_file, in_memory, 16] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes.resize(4096, 0x90);
    bytes
}
