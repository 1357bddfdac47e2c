//! From a name in a layer to a place in the tree.

use std::collections::VecDeque;

use super::TreeError;
use super::node::{Body, Child, InodeId, Metadata, Tree};
use crate::tar::shown;

/// Symbolic links on the way to one file, as many as Linux follows.
const LINKS_MAX: usize = 40;
/// Longest part of a name (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// What an entry of a directory takes in memory beside its name, about.
const ENTRY_WEIGHT: u64 = 64;

/// Splits a name into its parts; `/` at the front and `.` mean nothing, `..` is refused.
pub(super) fn parts(path: &[u8]) -> Result<Vec<&[u8]>, TreeError> {
    let mut parts = Vec::new();
    if path.contains(&0) {
        return Err(TreeError::Zero(shown(path)));
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(TreeError::Parent(shown(path))),
            _ if part.len() > NAME_MAX => return Err(TreeError::Name(shown(path))),
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// Finds the directory that `parents` lead to. With a `layer`, missing ones are made and all are marked as
/// touched by it; without, a missing one gives `None`.
pub(super) fn directory(
    tree: &mut Tree,
    parents: &[&[u8]],
    layer: Option<usize>,
    path: &[u8],
) -> Result<Option<InodeId>, TreeError> {
    let mut pending: VecDeque<Vec<u8>> = parents.iter().map(|part| part.to_vec()).collect();
    let mut way = vec![Tree::ROOT];
    let mut links = 0_usize;
    while let Some(part) = pending.pop_front() {
        if part == b".." {
            // As in a chroot, the root is its own parent.
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let here = way.last().copied().unwrap_or(Tree::ROOT);
        let Some(next) = step(tree, here, &part, layer)? else {
            return Ok(None);
        };
        match tree.get(next).map(|inode| &inode.body) {
            Some(Body::Directory(_)) => way.push(next),
            Some(Body::Symlink(target)) => {
                links = links.saturating_add(1);
                if links > LINKS_MAX {
                    return Err(TreeError::Loop(shown(path)));
                }
                if target.starts_with(b"/") {
                    way.truncate(1);
                }
                let parts = target
                    .split(|byte| *byte == b'/')
                    .filter(|part| !matches!(*part, b"" | b"."));
                let parts: Vec<_> = parts.map(<[u8]>::to_vec).collect();
                if let Some(long) = parts.iter().find(|part| part.len() > NAME_MAX) {
                    return Err(TreeError::Name(shown(long)));
                }
                parts.into_iter().rev().for_each(|part| pending.push_front(part));
            }
            _ => {
                return Err(TreeError::NotDirectory {
                    path: shown(path),
                    parent: shown(&part),
                });
            }
        }
    }
    Ok(way.last().copied())
}

/// The inode of a name in a directory.
fn step(
    tree: &mut Tree,
    here: InodeId,
    name: &[u8],
    layer: Option<usize>,
) -> Result<Option<InodeId>, TreeError> {
    if let Some(child) = tree
        .directory_mut(here)
        .and_then(|children| children.get_mut(name))
    {
        if let Some(layer) = layer {
            child.layer = layer;
        }
        return Ok(Some(child.inode));
    }
    let Some(layer) = layer else { return Ok(None) };
    let inode = tree.add(Metadata::implied(), Body::Directory(Default::default()))?;
    link(tree, here, name, Child { inode, layer })?;
    Ok(Some(inode))
}

/// Names an inode in a directory, instead of what had the name before.
pub(super) fn link(tree: &mut Tree, here: InodeId, name: &[u8], child: Child) -> Result<(), TreeError> {
    // The name itself and what an entry of the map takes beside it.
    tree.weigh((name.len() as u64).saturating_add(ENTRY_WEIGHT))?;
    if let Some(children) = tree.directory_mut(here) {
        children.insert(name.into(), child);
    }
    Ok(())
}
