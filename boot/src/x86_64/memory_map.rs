//! Where the guest has memory: the ranges to allocate, and the map that the guest is given.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::layout;

/// Most ranges that a map holds: what fits between the PVH memory map and the command line (the zero
/// page has room for 128).
const RANGES: usize = 56;
/// The least memory: the first MiB, and one more for a kernel.
const MEMORY_MIN: u64 = 2 << 20;

/// The ranges of guest memory for a machine with `bytes` of it: from 0 up to the MMIO gap, the rest from
/// 4 GiB on. No range is empty, and 0 bytes give no range.
#[must_use]
pub fn memory_ranges(bytes: u64) -> Vec<(GuestAddress, usize)> {
    let low = bytes.min(layout::MMIO_GAP_START);
    let high = bytes.saturating_sub(low);
    [(0, low), (layout::MMIO_GAP_END, high)]
        .into_iter()
        .filter(|&(_, length)| length != 0)
        .map(|(start, length)| (GuestAddress(start), usize::try_from(length).unwrap_or(usize::MAX)))
        .collect()
}

/// Guest memory from which no machine can boot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemoryMapError {
    /// Too little memory from address 0 on.
    #[error("guest memory has {0} bytes from address 0 on; a kernel needs 2 MiB at the least")]
    TooSmall(u64),
    /// Memory where the devices are.
    #[error("guest memory at {0:#x} lies in the MMIO gap, 3 GiB to 4 GiB")]
    InGap(u64),
    /// More pieces than a map can list.
    #[error("guest memory is in more than {max} separate pieces", max = RANGES)]
    TooManyRanges,
}

/// What the guest may do with a range; the numbers are those of e820 and of PVH alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Free to use.
    Ram = 1,
    /// Memory with something in it that must stay.
    Reserved = 2,
}

/// One line of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub start: u64,
    pub length: u64,
    pub kind: Kind,
}

/// The memory map of the guest, in ascending order.
#[derive(Debug)]
pub(super) struct MemoryMap {
    pub ranges: Vec<Range>,
    /// End of the memory that begins at address 0: the place for kernel and initrd ends here.
    pub low_end: u64,
}

impl MemoryMap {
    /// Maps `memory`, whose regions may come in any order.
    pub fn of<M: GuestMemoryBackend>(memory: &M) -> Result<Self, MemoryMapError> {
        let mut regions: Vec<(u64, u64)> = Vec::with_capacity(memory.num_regions());
        regions.extend(
            memory
                .iter()
                .map(|region| (region.start_addr().raw_value(), region.len())),
        );
        regions.sort_unstable();
        let mut pieces: Vec<(u64, u64)> = Vec::with_capacity(regions.len());
        for (start, length) in regions {
            let end = start.saturating_add(length);
            if start < layout::MMIO_GAP_END && end > layout::MMIO_GAP_START {
                return Err(MemoryMapError::InGap(start.max(layout::MMIO_GAP_START)));
            }
            match pieces.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => pieces.push((start, end)),
            }
        }
        let low_end = pieces
            .first()
            .filter(|piece| piece.0 == 0)
            .map_or(0, |piece| piece.1);
        if low_end < MEMORY_MIN {
            return Err(MemoryMapError::TooSmall(low_end));
        }

        let mut ranges = Vec::with_capacity(pieces.len().saturating_add(2));
        let mut add = |start: u64, end: u64, kind| {
            let length = end.saturating_sub(start);
            ranges.push(Range { start, length, kind });
        };
        add(0, layout::LOW_RAM_END, Kind::Ram);
        add(layout::FIRMWARE, layout::FIRMWARE_END, Kind::Reserved);
        for (start, end) in pieces {
            add(start.max(layout::HIMEM_START), end, Kind::Ram);
        }
        if ranges.len() > RANGES {
            return Err(MemoryMapError::TooManyRanges);
        }
        Ok(Self { ranges, low_end })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;
    use crate::test_support::memory_with;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_is_split_around_the_gap() {
        for (bytes, expected) in [
            (0, vec![]),
            (64 * MIB, vec![(0, 64 * MIB)]),
            (3 * GIB - 4096, vec![(0, 3 * GIB - 4096)]),
            (3 * GIB, vec![(0, 3 * GIB)]),
            (3 * GIB + 4096, vec![(0, 3 * GIB), (4 * GIB, 4096)]),
            (8 * GIB, vec![(0, 3 * GIB), (4 * GIB, 5 * GIB)]),
            (u64::MAX, vec![(0, 3 * GIB), (4 * GIB, u64::MAX - 3 * GIB)]),
        ] {
            let ranges = memory_ranges(bytes);
            let plain: Vec<_> = ranges
                .iter()
                .map(|&(start, length)| (start.0, length as u64))
                .collect();
            assert_eq!(plain, expected, "{bytes} bytes");
        }
    }

    #[test]
    fn the_map_lists_all_memory_but_the_firmwares() {
        let map = MemoryMap::of(&memory_with(8 * GIB)).unwrap();
        let lines: Vec<_> = map
            .ranges
            .iter()
            .map(|range| (range.start, range.start + range.length, range.kind))
            .collect();
        assert_eq!(
            lines,
            [
                (0, 0x9_fc00, Kind::Ram),
                (0xf_0000, 0x10_0000, Kind::Reserved),
                (0x10_0000, 0xc000_0000, Kind::Ram),
                (4 * GIB, 9 * GIB, Kind::Ram),
            ]
        );
        assert_eq!(map.low_end, 3 * GIB);
        assert_eq!(MemoryMap::of(&memory_with(64 * MIB)).unwrap().low_end, 64 * MIB);
    }

    #[test]
    fn neighbouring_regions_are_one_line() {
        use vm_memory::GuestMemoryMmap;
        let parts = [
            (GuestAddress(0), 1 << 20),
            (GuestAddress(1 << 20), 1 << 20),
            (GuestAddress(4 << 20), 1 << 20),
        ];
        let map = MemoryMap::of(&GuestMemoryMmap::<()>::from_ranges(&parts).unwrap()).unwrap();
        assert_eq!(map.low_end, 2 << 20);
        assert_eq!(map.ranges.len(), 4);
    }

    #[test]
    fn unusable_memory_is_refused() {
        use vm_memory::GuestMemoryMmap;
        let small = MemoryMap::of(&memory_with(MIB)).unwrap_err();
        assert_eq!(small, MemoryMapError::TooSmall(MIB));
        let no_low = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(4 * GIB), 1 << 22)]).unwrap();
        assert_eq!(MemoryMap::of(&no_low).unwrap_err(), MemoryMapError::TooSmall(0));
        let gap = [(GuestAddress(0), 1 << 22), (GuestAddress(0xd000_0000), 4096)];
        let gap = GuestMemoryMmap::<()>::from_ranges(&gap).unwrap();
        assert_eq!(
            MemoryMap::of(&gap).unwrap_err(),
            MemoryMapError::InGap(0xd000_0000)
        );
        let scattered: Vec<_> = (0..60)
            .map(|index| (GuestAddress(index << 22), 2 << 20))
            .collect();
        let scattered = GuestMemoryMmap::<()>::from_ranges(&scattered).unwrap();
        assert_eq!(
            MemoryMap::of(&scattered).unwrap_err(),
            MemoryMapError::TooManyRanges
        );
    }
}
