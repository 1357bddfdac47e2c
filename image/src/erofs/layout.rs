//! Which inode goes where: parents before children, the files of a directory beside each other.

use std::collections::VecDeque;

use super::data::fits_inline;
use super::format::{BLOCK, DataLayout, INODE, SLOT, xattr_size};
use super::{DiskError, directory};
use crate::tree::{Body, Inode, InodeId, Tree};

/// The place of one inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// From the beginning of the inodes, in bytes.
    pub at: u64,
    /// Names of it; of a directory: `.`, its own name and the `..` of its children.
    pub links: u32,
    pub parent: InodeId,
    pub size: u64,
    pub layout: DataLayout,
    /// First block of a directory or link that has blocks of its own.
    pub block: u32,
}

/// The places of all inodes that can be reached.
pub(super) struct Layout {
    pub places: Vec<Option<Place>>,
    /// In the order of their places.
    pub order: Vec<InodeId>,
    /// Where the inodes begin, in blocks.
    pub meta_block: u64,
    /// All blocks of the image.
    pub blocks: u64,
}

impl Layout {
    /// Lays out a tree behind `next_block` blocks of contents.
    pub fn new(tree: &Tree, next_block: u64) -> Result<Self, DiskError> {
        let mut places = vec![None; tree.inodes().len()];
        let mut order = Vec::new();
        let mut block = next_block;
        // No file has the number 0: `readdir` would leave it out.
        let mut at = SLOT;
        let mut pending = VecDeque::from([(Tree::ROOT, Tree::ROOT)]);
        while let Some((id, parent)) = pending.pop_front() {
            let slot = places.get_mut(id as usize).ok_or(DiskError::Layout)?;
            if let Some(Place { links, .. }) = slot {
                *links = links.saturating_add(1);
                continue;
            }
            let inode = tree.get(id).ok_or(DiskError::Layout)?;
            let mut place = place(inode, parent)?;
            if !matches!(inode.body, Body::File(_)) {
                place.block = u32::try_from(block).map_err(|_| DiskError::Layout)?;
                block = block.saturating_add(blocks_beside(&place));
            }
            let length = record_length(inode, &place);
            at = fit(at, length);
            place.at = at;
            at = at.saturating_add(length).next_multiple_of(SLOT);
            *slot = Some(place);
            order.push(id);
            if let Body::Directory(children) = &inode.body {
                pending.extend(children.values().map(|child| (child.inode, id)));
            }
        }
        let blocks = block.saturating_add(at.div_ceil(BLOCK));
        if u32::try_from(blocks).is_err() {
            return Err(DiskError::Size { limit: BLOCK << 32 });
        }
        Ok(Self {
            places,
            order,
            meta_block: block,
            blocks,
        })
    }

    pub fn place(&self, id: InodeId) -> Result<&Place, DiskError> {
        self.places
            .get(id as usize)
            .and_then(Option::as_ref)
            .ok_or(DiskError::Layout)
    }

    /// The number by which directories name an inode.
    pub fn number(&self, id: InodeId) -> Result<u64, DiskError> {
        Ok(self.place(id)?.at / SLOT)
    }
}

fn place(inode: &Inode, parent: InodeId) -> Result<Place, DiskError> {
    let mut place = Place {
        at: 0,
        links: 1,
        parent,
        size: 0,
        layout: DataLayout::Plain,
        block: 0,
    };
    match &inode.body {
        Body::Directory(children) => {
            let dots = [b".".as_slice(), b".."].into_iter();
            let mut names: Vec<&[u8]> = children.keys().map(|name| &**name).chain(dots).collect();
            names.sort_unstable();
            place.size = directory::size(names.into_iter());
        }
        Body::Symlink(target) => place.size = target.len() as u64,
        Body::File(contents) => {
            place.size = contents.size;
            place.block = contents.block;
            if contents.tail.is_some() {
                place.layout = DataLayout::Inline;
            }
            return Ok(place);
        }
        Body::Character { .. } | Body::Block { .. } | Body::Fifo => return Ok(place),
    }
    let tail = place.size % BLOCK;
    if tail > 0 && fits_inline(tail, &inode.metadata.xattrs) {
        place.layout = DataLayout::Inline;
    }
    Ok(place)
}

fn blocks_beside(place: &Place) -> u64 {
    match place.layout {
        DataLayout::Inline => place.size / BLOCK,
        DataLayout::Plain => place.size.div_ceil(BLOCK),
    }
}

/// Bytes of the inode, its attributes and what follows them.
fn record_length(inode: &Inode, place: &Place) -> u64 {
    let tail = if place.layout == DataLayout::Inline {
        place.size % BLOCK
    } else {
        0
    };
    INODE
        .saturating_add(xattr_size(&inode.metadata.xattrs))
        .saturating_add(tail)
}

/// Where a record can begin: within one block if that is possible at all, as data beside an inode must.
fn fit(at: u64, length: u64) -> u64 {
    let needed = if length <= BLOCK { length } else { INODE };
    let room = BLOCK.saturating_sub(at % BLOCK);
    if needed <= room {
        at
    } else {
        at.next_multiple_of(BLOCK)
    }
}
