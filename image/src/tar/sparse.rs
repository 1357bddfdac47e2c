//! Maps of sparse files (GNU tar manual §Sparse Formats).

use super::header::{BLOCK, Header, number};
use super::pax::decimal;
use super::{SPARSE_MAX, TarError, shown};

/// What GNU's own header says: the ranges it has room for, the real size, and whether more blocks follow.
pub(super) struct OldMap {
    pub ranges: Vec<(u64, u64)>,
    pub size: u64,
    pub extended: bool,
}

impl OldMap {
    pub fn read(header: &Header<'_>) -> Result<Self, TarError> {
        let size = header.unsigned("realsize", 483, 12)?;
        let mut map = Self {
            ranges: Vec::new(),
            size,
            extended: header.field(482, 1) != [0],
        };
        map.add(header.field(386, 96))
            .ok_or_else(|| TarError::Sparse(shown(&header.path())))?;
        Ok(map)
    }

    /// Adds the ranges of an extension block.
    pub fn extend(&mut self, block: &[u8; BLOCK], path: &[u8]) -> Result<(), TarError> {
        let (ranges, rest) = block.split_at(504);
        self.extended = rest.first() != Some(&0);
        self.add(ranges).ok_or_else(|| TarError::Sparse(shown(path)))?;
        if self.ranges.len() > SPARSE_MAX {
            return Err(TarError::Long {
                path: shown(path),
                what: "a sparse map",
                limit: SPARSE_MAX as u64,
            });
        }
        Ok(())
    }

    fn add(&mut self, ranges: &[u8]) -> Option<()> {
        for range in ranges.chunks_exact(24) {
            let (offset, length) = range.split_at(12);
            // The first unused slot ends the list.
            if offset.first() == Some(&0) {
                break;
            }
            self.ranges
                .push((number(offset)?.try_into().ok()?, number(length)?.try_into().ok()?));
        }
        Some(())
    }
}

/// The map of format 1.0, fed block by block: a count, then offsets and lengths, one number a line.
#[derive(Default)]
pub(super) struct TextMap {
    numbers: Vec<u64>,
    partial: Vec<u8>,
}

impl TextMap {
    /// Takes the next block; says whether the map is complete. `None` if it is malformed.
    pub fn feed(&mut self, block: &[u8; BLOCK]) -> Option<bool> {
        for &byte in block {
            if byte != b'\n' {
                self.partial.push(byte);
                if self.partial.len() > 20 {
                    return None;
                }
                continue;
            }
            self.numbers
                .push(decimal(&self.partial).filter(|_| !self.partial.is_empty())?);
            self.partial.clear();
            let count = usize::try_from(*self.numbers.first()?)
                .ok()
                .filter(|count| *count <= SPARSE_MAX)?;
            if self.numbers.len() == count.checked_mul(2)?.checked_add(1)? {
                return Some(true);
            }
        }
        Some(false)
    }

    pub fn ranges(self) -> Vec<(u64, u64)> {
        pairs(self.numbers.get(1..).unwrap_or_default())
    }
}

pub(super) fn pairs(numbers: &[u64]) -> Vec<(u64, u64)> {
    numbers
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[offset, length]| (offset, length))
        .collect()
}

/// Drops empty ranges and makes sure that the rest is in order, within the file and as long as the data.
pub(super) fn checked(ranges: Vec<(u64, u64)>, size: u64, data: u64) -> Option<Vec<(u64, u64)>> {
    let (mut end, mut sum) = (0, 0_u64);
    for &(offset, length) in &ranges {
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        sum = sum.checked_add(length)?;
    }
    let used = ranges.into_iter().filter(|(_, length)| *length > 0).collect();
    (end <= size && sum == data).then_some(used)
}
