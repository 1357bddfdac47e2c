//! The configuration space (virtio 1.2 §5.2.4) and the features that give its fields a meaning (§5.2.3).

use super::request::Limits;
use super::{
    CacheMode, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_SEGMENT_SIZE, MAX_SEGMENTS,
    MAX_WRITE_ZEROES_RANGES, MAX_WRITE_ZEROES_SECTORS, SECTOR_SIZE,
};

/// VIRTIO_BLK_F_SIZE_MAX.
pub(super) const F_SIZE_MAX: u64 = 1 << 1;
/// VIRTIO_BLK_F_SEG_MAX.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO.
pub(super) const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_DISCARD.
pub(super) const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES.
pub(super) const F_WRITE_ZEROES: u64 = 1 << 14;
/// VIRTIO_RING_F_INDIRECT_DESC.
pub(super) const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_RING_F_EVENT_IDX.
pub(super) const F_EVENT_IDX: u64 = 1 << 29;

/// Bytes of struct virtio_blk_config.
const SIZE: usize = 60;

/// Sectors of a page of the host's page cache, in whose multiples space is given back.
const DISCARD_ALIGNMENT: u32 = 8;

/// Features of a disk.
pub(super) fn features(read_only: bool, cache: CacheMode) -> u64 {
    let mut features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_INDIRECT_DESC | F_EVENT_IDX;
    features |= if read_only {
        F_RO
    } else {
        F_DISCARD | F_WRITE_ZEROES
    };
    if cache == CacheMode::Writeback {
        features |= F_FLUSH;
    }
    features
}

/// The configuration space of a disk.
pub(super) fn bytes(limits: &Limits) -> [u8; SIZE] {
    let mut config = [0; SIZE];
    put(&mut config, 0, &limits.sectors.to_le_bytes());
    put(&mut config, 8, &MAX_SEGMENT_SIZE.to_le_bytes());
    put(&mut config, 12, &MAX_SEGMENTS.to_le_bytes());
    // 16: no geometry.
    put(&mut config, 20, &(SECTOR_SIZE as u32).to_le_bytes());
    // 24: no topology; 32: no switch for the cache; 34: one queue.
    put(&mut config, 34, &1_u16.to_le_bytes());
    if !limits.read_only {
        put(&mut config, 36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(&mut config, 40, &MAX_DISCARD_RANGES.to_le_bytes());
        put(&mut config, 44, &DISCARD_ALIGNMENT.to_le_bytes());
        put(&mut config, 48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
        put(&mut config, 52, &MAX_WRITE_ZEROES_RANGES.to_le_bytes());
        // write_zeroes_may_unmap
        put(&mut config, 56, &[1]);
    }
    config
}

fn put(config: &mut [u8], offset: usize, bytes: &[u8]) {
    for (to, from) in config.iter_mut().skip(offset).zip(bytes) {
        *to = *from;
    }
}
