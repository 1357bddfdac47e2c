//! Completes an image: directories, inodes, superblock, and holes where deleted contents were.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::DiskError;
use super::data::DataWriter;
use super::directory::{self, Dirent};
use super::format::{BLOCK, DataLayout, InodeRecord, Superblock, device_number, dirent_kind};
use super::layout::{Layout, Place};
use crate::tree::{Body, Contents, InodeId, Tree};

const BUFFER: usize = 1 << 20;

/// Writes everything but the contents, which are there already, and gives the image file back. `uuid` identifies
/// the file system. Nothing is synced yet.
pub(crate) fn write(data: DataWriter, tree: &Tree, uuid: [u8; 16]) -> Result<File, DiskError> {
    let layout = Layout::new(tree, data.next_block)?;
    let tails = data.tails.into_inner().map_err(io::IntoInnerError::into_error)?;
    let mut image = data.image;
    punch_deleted(&image, tree, &layout)?;
    write_blocks(&mut image, tree, &layout, data.next_block)?;
    write_inodes(&mut image, tree, &layout, &tails)?;
    let narrow = |blocks: u64| u32::try_from(blocks).map_err(|_| DiskError::Layout);
    let superblock = Superblock {
        root: u16::try_from(layout.number(Tree::ROOT)?).map_err(|_| DiskError::Layout)?,
        inodes: layout.order.len() as u64,
        blocks: narrow(layout.blocks)?,
        meta_block: narrow(layout.meta_block)?,
        uuid,
    };
    image.write_all_at(&superblock.encode(), 0)?;
    image.set_len(layout.blocks.saturating_mul(BLOCK))?;
    Ok(image)
}

/// Contents that no name leads to any more become holes, or zeros where the host knows no holes.
fn punch_deleted(image: &File, tree: &Tree, layout: &Layout) -> Result<(), DiskError> {
    let unreachable = tree
        .inodes()
        .iter()
        .zip(&layout.places)
        .filter(|(_, place)| place.is_none());
    for (inode, _) in unreachable {
        let Body::File(contents) = &inode.body else {
            continue;
        };
        let length = blocks_of(contents).saturating_mul(BLOCK);
        let at = u64::from(contents.block).saturating_mul(BLOCK);
        if length == 0 {
            continue;
        }
        match fallocate(
            image,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            at,
            length,
        ) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => zero(image, at, length)?,
            Err(error) => return Err(DiskError::Write(error.into())),
        }
    }
    Ok(())
}

fn blocks_of(contents: &Contents) -> u64 {
    if contents.tail.is_some() {
        contents.size / BLOCK
    } else {
        contents.size.div_ceil(BLOCK)
    }
}

fn zero(image: &File, mut at: u64, length: u64) -> Result<(), DiskError> {
    let end = at.saturating_add(length);
    let zeros = vec![0; BUFFER];
    while at < end {
        let step = end.saturating_sub(at).min(BUFFER as u64);
        image.write_all_at(zeros.get(..step as usize).unwrap_or_default(), at)?;
        at = at.saturating_add(step);
    }
    Ok(())
}

/// The whole blocks of directories, and link targets too long to follow their inodes.
fn write_blocks(image: &mut File, tree: &Tree, layout: &Layout, first: u64) -> Result<(), DiskError> {
    image.seek(SeekFrom::Start(first.saturating_mul(BLOCK)))?;
    let mut out = BufWriter::with_capacity(BUFFER, image);
    for &id in &layout.order {
        let place = layout.place(id)?;
        let mut bytes = match inline_body(tree, layout, id)? {
            Some(bytes) if !bytes.is_empty() => bytes,
            _ => continue,
        };
        match place.layout {
            DataLayout::Inline => bytes.truncate(place.size.saturating_sub(place.size % BLOCK) as usize),
            DataLayout::Plain => bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0),
        }
        out.write_all(&bytes)?;
    }
    out.flush()?;
    Ok(())
}

fn write_inodes(image: &mut File, tree: &Tree, layout: &Layout, tails: &File) -> Result<(), DiskError> {
    image.seek(SeekFrom::Start(layout.meta_block.saturating_mul(BLOCK)))?;
    let mut out = BufWriter::with_capacity(BUFFER, image);
    let mut at = 0_u64;
    for (number, &id) in layout.order.iter().enumerate() {
        let place = layout.place(id)?;
        let inode = tree.get(id).ok_or(DiskError::Layout)?;
        let gap = place.at.checked_sub(at).ok_or(DiskError::Layout)?;
        io::copy(&mut io::Read::take(io::repeat(0), gap), &mut out)?;
        let record = InodeRecord {
            layout: place.layout,
            size: place.size,
            union: union(&inode.body, place),
            number: u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1),
            links: links(tree, id, place),
        };
        let mut bytes = record.encode(inode);
        if place.layout == DataLayout::Inline {
            bytes.extend(tail(tree, layout, id, place, tails)?);
        }
        out.write_all(&bytes)?;
        at = place.at.saturating_add(bytes.len() as u64);
    }
    out.flush()?;
    Ok(())
}

fn union(body: &Body, place: &Place) -> u32 {
    match *body {
        Body::Character { major, minor } | Body::Block { major, minor } => device_number(major, minor),
        Body::Fifo => 0,
        _ => place.block,
    }
}

/// Names that lead to an inode; a directory has two and one for each directory in it.
fn links(tree: &Tree, id: InodeId, place: &Place) -> u32 {
    let Some(children) = tree.directory(id) else {
        return place.links;
    };
    let inner = children
        .values()
        .filter(|child| tree.directory(child.inode).is_some())
        .count();
    u32::try_from(inner).unwrap_or(u32::MAX).saturating_add(2)
}

/// The last, incomplete block.
fn tail(
    tree: &Tree,
    layout: &Layout,
    id: InodeId,
    place: &Place,
    tails: &File,
) -> Result<Vec<u8>, DiskError> {
    let length = (place.size % BLOCK) as usize;
    if let Some(bytes) = inline_body(tree, layout, id)? {
        let from = bytes.len().checked_sub(length).ok_or(DiskError::Layout)?;
        return Ok(bytes.get(from..).unwrap_or_default().to_vec());
    }
    let Some(Body::File(Contents { tail: Some(at), .. })) = tree.get(id).map(|inode| &inode.body) else {
        return Err(DiskError::Layout);
    };
    let mut bytes = vec![0; length];
    tails.read_exact_at(&mut bytes, *at)?;
    Ok(bytes)
}

/// The whole data of a directory or link; `None` for what has its contents elsewhere or none.
fn inline_body(tree: &Tree, layout: &Layout, id: InodeId) -> Result<Option<Vec<u8>>, DiskError> {
    let children = match tree.get(id).map(|inode| &inode.body) {
        Some(Body::Symlink(target)) => return Ok(Some(target.to_vec())),
        Some(Body::Directory(children)) => children,
        _ => return Ok(None),
    };
    let parent = layout.place(id)?.parent;
    let mut entries = vec![
        Dirent {
            name: b".",
            inode: layout.number(id)?,
            kind: 2,
        },
        Dirent {
            name: b"..",
            inode: layout.number(parent)?,
            kind: 2,
        },
    ];
    for (name, child) in children {
        let body = &tree.get(child.inode).ok_or(DiskError::Layout)?.body;
        entries.push(Dirent {
            name,
            inode: layout.number(child.inode)?,
            kind: dirent_kind(body),
        });
    }
    entries.sort_unstable_by_key(|entry| entry.name);
    let bytes = directory::encode(&entries);
    if bytes.len() as u64 == layout.place(id)?.size {
        Ok(Some(bytes))
    } else {
        Err(DiskError::Layout)
    }
}
