//! Records of the on-disk format, little-endian throughout (`fs/erofs/erofs_fs.h`).

use super::crc::crc32c;
use crate::tree::{Body, Inode, Xattrs};

pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCK_BITS: u8 = 12;
/// Inodes begin at multiples of this, which their numbers count.
pub(super) const SLOT: u64 = 32;
/// Size of an extended inode, the kind with 32-bit owners and a time of its own.
pub(super) const INODE: u64 = 64;
pub(super) const SUPERBLOCK_AT: usize = 1024;
pub(super) const DIRENT: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The checksum is valid; inodes hold the time of modification.
const COMPATIBLE: u32 = 0b11;
const XATTR_HEADER: u64 = 12;

/// Where an inode's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// All in blocks of their own.
    Plain = 0,
    /// The last, incomplete block follows the inode.
    Inline = 2,
}

/// What the superblock says.
pub(super) struct Superblock {
    pub root: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub meta_block: u32,
    pub uuid: [u8; 16],
}

impl Superblock {
    /// Block 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; SUPERBLOCK_AT];
        block.extend(MAGIC.to_le_bytes());
        block.extend(0_u32.to_le_bytes());
        block.extend(COMPATIBLE.to_le_bytes());
        block.extend([BLOCK_BITS, 0]);
        block.extend(self.root.to_le_bytes());
        block.extend(self.inodes.to_le_bytes());
        // Time of the build, which would differ each time.
        block.extend([0; 12]);
        block.extend(self.blocks.to_le_bytes());
        block.extend(self.meta_block.to_le_bytes());
        // No shared attributes.
        block.extend(0_u32.to_le_bytes());
        block.extend(self.uuid);
        block.resize(BLOCK as usize, 0);
        let crc = crc32c(block.get(SUPERBLOCK_AT..).unwrap_or_default());
        if let Some(field) = block.get_mut(1028..1032) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        block
    }
}

/// What an inode's record says beside its metadata.
pub(super) struct InodeRecord {
    pub layout: DataLayout,
    pub size: u64,
    /// First block of the data, or the device's number.
    pub union: u32,
    pub number: u32,
    pub links: u32,
}

impl InodeRecord {
    /// The inode and its attributes.
    pub fn encode(&self, inode: &Inode) -> Vec<u8> {
        let metadata = &inode.metadata;
        let mut bytes = Vec::with_capacity(INODE as usize);
        let format = 1 | ((self.layout as u16) << 1);
        bytes.extend(format.to_le_bytes());
        bytes.extend(xattr_count(&metadata.xattrs).to_le_bytes());
        bytes.extend((kind_bits(&inode.body) | metadata.mode).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.union.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(metadata.uid.to_le_bytes());
        bytes.extend(metadata.gid.to_le_bytes());
        bytes.extend(metadata.mtime.0.to_le_bytes());
        bytes.extend(metadata.mtime.1.to_le_bytes());
        bytes.extend(self.links.to_le_bytes());
        bytes.resize(INODE as usize, 0);
        encode_xattrs(&metadata.xattrs, &mut bytes);
        bytes
    }
}

/// Bytes that attributes take after the inode.
pub(crate) fn xattr_size(xattrs: &Xattrs) -> u64 {
    let entry = |name: &[u8], value: &[u8]| {
        let length = name.len().saturating_add(value.len()).saturating_add(4);
        length.next_multiple_of(4) as u64
    };
    let entries: u64 = xattrs.iter().map(|(_, name, value)| entry(name, value)).sum();
    if entries == 0 {
        0
    } else {
        entries.saturating_add(XATTR_HEADER)
    }
}

/// Their size in the inode's own unit: 4 bytes, the header counting as one.
fn xattr_count(xattrs: &Xattrs) -> u16 {
    let size = xattr_size(xattrs);
    let count = size
        .checked_sub(XATTR_HEADER)
        .map_or(0, |entries| (entries / 4).saturating_add(1));
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn encode_xattrs(xattrs: &Xattrs, bytes: &mut Vec<u8>) {
    if xattrs.iter().next().is_none() {
        return;
    }
    bytes.extend([0; XATTR_HEADER as usize]);
    for (kind, name, value) in xattrs.iter() {
        // Both were measured when the attribute was accepted.
        bytes.extend([u8::try_from(name.len()).unwrap_or(u8::MAX), kind as u8]);
        bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

/// The file type within a mode (`S_IFMT`).
fn kind_bits(body: &Body) -> u16 {
    match body {
        Body::Fifo => 0o010_000,
        Body::Character { .. } => 0o020_000,
        Body::Directory(_) => 0o040_000,
        Body::Block { .. } => 0o060_000,
        Body::File(_) => 0o100_000,
        Body::Symlink(_) => 0o120_000,
    }
}

/// The file type within a directory entry.
pub(super) fn dirent_kind(body: &Body) -> u8 {
    match body {
        Body::File(_) => 1,
        Body::Directory(_) => 2,
        Body::Character { .. } => 3,
        Body::Block { .. } => 4,
        Body::Fifo => 5,
        Body::Symlink(_) => 7,
    }
}

/// A device's number as Linux writes it (`new_encode_dev`).
pub(super) fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
