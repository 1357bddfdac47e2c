//! Entries of a layer, applied one after the other (OCI image specification, layer §applying changesets).

use super::node::{Body, Child, InodeId, Metadata, Tree, Xattrs};
use super::{TreeError, resolve};
use crate::tar::{Entry, Kind, shown};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself; docker skips it, too.
const AUFS: &[u8] = b".wh..wh.";

/// One layer on its way into the tree.
pub(crate) struct Layer<'a> {
    pub tree: &'a mut Tree,
    /// Its number; the lowest is 0.
    pub number: usize,
    /// Whether names that begin with `.wh.` hide files of lower layers, as in OCI layers.
    pub whiteouts: bool,
}

/// An entry whose kind and contents are settled.
pub(crate) struct NewNode<'a> {
    pub path: &'a [u8],
    pub metadata: Metadata,
    pub body: Body,
}

impl Metadata {
    /// What the header of an entry says.
    pub fn of(entry: &Entry) -> Self {
        let Entry {
            mode,
            uid,
            gid,
            mtime,
            ..
        } = *entry;
        Self {
            mode,
            uid,
            gid,
            mtime,
            xattrs: Xattrs::new(&entry.xattrs),
        }
    }
}

impl Layer<'_> {
    /// Applies a whiteout or another mark of its format. Says whether the entry was one, and no file then.
    pub fn mark(&mut self, path: &[u8]) -> Result<bool, TreeError> {
        if !self.whiteouts {
            return Ok(false);
        }
        let parts = resolve::parts(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(false);
        };
        if *name == OPAQUE {
            if let Some(directory) = resolve::directory(self.tree, parents, None, path)? {
                self.hide_below(directory);
            }
            return Ok(true);
        }
        if name.starts_with(AUFS) {
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(TreeError::Whiteout(shown(path)));
        }
        if let Some(directory) = resolve::directory(self.tree, parents, None, path)? {
            self.hide(directory, hidden);
        }
        Ok(true)
    }

    /// Applies a link, directory, device or queue.
    pub fn special(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let (major, minor) = entry.device;
        let body = match entry.kind {
            Kind::HardLink => return self.hard_link(&entry.path, &entry.link),
            Kind::Symlink if entry.link.is_empty() => return Err(TreeError::EmptyLink(shown(&entry.path))),
            Kind::Symlink if entry.link.contains(&0) => return Err(TreeError::Zero(shown(&entry.link))),
            Kind::Symlink => Body::Symlink(entry.link.as_slice().into()),
            Kind::Directory => Body::Directory(Default::default()),
            Kind::Fifo | Kind::File => Body::Fifo,
            Kind::Character | Kind::Block if major > 0xfff || minor > 0xf_ffff => {
                return Err(TreeError::Device {
                    path: shown(&entry.path),
                    major,
                    minor,
                });
            }
            Kind::Character => Body::Character { major, minor },
            Kind::Block => Body::Block { major, minor },
        };
        self.put(NewNode {
            path: &entry.path,
            metadata: Metadata::of(entry),
            body,
        })
    }

    /// Puts a node where its name says. A directory keeps what is in it if there was a directory before;
    /// anything else replaces what had the name.
    pub fn put(&mut self, node: NewNode<'_>) -> Result<(), TreeError> {
        let parts = resolve::parts(node.path)?;
        let is_directory = matches!(node.body, Body::Directory(_));
        let Some((name, parents)) = parts.split_last() else {
            if !is_directory {
                return Err(TreeError::Root(shown(node.path)));
            }
            return self.describe(Tree::ROOT, node.metadata);
        };
        let parent = self.parent(parents, node.path)?;
        let known = self
            .tree
            .directory(parent)
            .and_then(|children| children.get(*name))
            .copied();
        if let Some(known) = known.filter(|known| is_directory && self.tree.directory(known.inode).is_some())
        {
            self.describe(known.inode, node.metadata)?;
            let child = Child {
                inode: known.inode,
                layer: self.number,
            };
            return resolve::link(self.tree, parent, name, child);
        }
        let inode = self.tree.add(node.metadata, node.body)?;
        resolve::link(
            self.tree,
            parent,
            name,
            Child {
                inode,
                layer: self.number,
            },
        )
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let missing = || TreeError::LinkTarget {
            path: shown(path),
            target: shown(target),
        };
        let target_parts = resolve::parts(target)?;
        let (target_name, target_parents) = target_parts.split_last().ok_or_else(missing)?;
        let directory = resolve::directory(self.tree, target_parents, None, target)?.ok_or_else(missing)?;
        let children = self.tree.directory(directory).ok_or_else(missing)?;
        let inode = children.get(*target_name).ok_or_else(missing)?.inode;
        if self.tree.directory(inode).is_some() {
            return Err(TreeError::LinkDirectory {
                path: shown(path),
                target: shown(target),
            });
        }
        let parts = resolve::parts(path)?;
        let (name, parents) = parts.split_last().ok_or_else(|| TreeError::Root(shown(path)))?;
        let parent = self.parent(parents, path)?;
        resolve::link(
            self.tree,
            parent,
            name,
            Child {
                inode,
                layer: self.number,
            },
        )
    }

    fn parent(&mut self, parents: &[&[u8]], path: &[u8]) -> Result<InodeId, TreeError> {
        Ok(resolve::directory(self.tree, parents, Some(self.number), path)?.unwrap_or(Tree::ROOT))
    }

    fn describe(&mut self, id: InodeId, metadata: Metadata) -> Result<(), TreeError> {
        self.tree.weigh(metadata.xattrs.weight())?;
        if let Some(inode) = self.tree.get_mut(id) {
            inode.metadata = metadata;
        }
        Ok(())
    }

    /// Hides what lower layers have under a name. A file of this layer stays, and so does what this layer put
    /// into a directory: the order of entries within a layer does not matter.
    fn hide(&mut self, directory: InodeId, name: &[u8]) {
        let Some(children) = self.tree.directory_mut(directory) else {
            return;
        };
        let Some(child) = children.get(name).copied() else {
            return;
        };
        if child.layer != self.number {
            children.remove(name);
        } else {
            self.hide_below(child.inode);
        }
    }

    fn hide_below(&mut self, directory: InodeId) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let Some(children) = self.tree.directory_mut(directory) else {
                continue;
            };
            children.retain(|_, child| child.layer == self.number);
            pending.extend(children.values().map(|child| child.inode));
        }
    }
}
