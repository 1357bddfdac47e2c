//! Blocks of directories: fixed records first, then the names they point to (`struct erofs_dirent`).

use super::format::{BLOCK, DIRENT};

/// One name in a directory, in the order of its bytes: the kernel searches them by halves.
pub(super) struct Dirent<'a> {
    pub name: &'a [u8],
    pub inode: u64,
    pub kind: u8,
}

/// The size of a directory with such names: whole blocks and the used part of the last one.
pub(super) fn size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut blocks, mut used) = (0_u64, 0_usize);
    for name in names {
        let needed = name.len().saturating_add(DIRENT);
        if used.saturating_add(needed) > BLOCK as usize {
            blocks = blocks.saturating_add(1);
            used = 0;
        }
        used = used.saturating_add(needed);
    }
    blocks.saturating_mul(BLOCK).saturating_add(used as u64)
}

/// The directory's data: as long as [`size`] says.
pub(super) fn encode(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0_usize;
        let count = rest.iter().take_while(|entry| {
            used = used.saturating_add(entry.name.len()).saturating_add(DIRENT);
            used <= BLOCK as usize
        });
        let (block, later) = rest.split_at(count.count().max(1));
        encode_block(block, &mut bytes);
        if !later.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        }
        rest = later;
    }
    bytes
}

fn encode_block(entries: &[Dirent<'_>], bytes: &mut Vec<u8>) {
    let mut name_at = entries.len().saturating_mul(DIRENT);
    for entry in entries {
        bytes.extend(entry.inode.to_le_bytes());
        bytes.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend([entry.kind, 0]);
        name_at = name_at.saturating_add(entry.name.len());
    }
    entries.iter().for_each(|entry| bytes.extend(entry.name));
}
