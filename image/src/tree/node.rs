//! Inodes and the tree that holds them.

use std::collections::BTreeMap;

use crate::Limits;

/// Index of an inode in its tree.
pub(crate) type InodeId = u32;

/// What every kind of file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Permissions with set-id and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: Xattrs,
}

impl Metadata {
    /// What a directory gets that no entry describes.
    pub fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Xattrs::default(),
        }
    }
}

/// Namespaces of extended attributes that EROFS knows, by its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum XattrKind {
    User = 1,
    AclAccess = 2,
    AclDefault = 3,
    Trusted = 4,
    Security = 6,
}

/// Extended attributes, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Xattrs(Vec<Xattr>);

/// Namespace, rest of the name, value.
type Xattr = (XattrKind, Box<[u8]>, Box<[u8]>);

impl Xattrs {
    /// Takes attributes by their full names. Left out are those that would be instructions to the overlay
    /// above the disk, SELinux labels of another system, and namespaces that Linux does not store.
    pub fn new(full: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let mut list: Vec<_> = full
            .iter()
            .filter_map(|(name, value)| classify(name, value))
            .collect();
        list.sort();
        list.dedup_by(|second, first| (second.0, &second.1) == (first.0, &first.1));
        Self(list)
    }

    pub fn iter(&self) -> impl Iterator<Item = (XattrKind, &[u8], &[u8])> {
        self.0
            .iter()
            .map(|(kind, name, value)| (*kind, &**name, &**value))
    }

    /// Bytes of all names and values.
    pub fn weight(&self) -> u64 {
        self.iter()
            .map(|(_, name, value)| name.len().saturating_add(value.len()) as u64)
            .sum()
    }
}

fn classify(full: &[u8], value: &[u8]) -> Option<Xattr> {
    let (kind, name) = match full {
        b"system.posix_acl_access" => (XattrKind::AclAccess, b"".as_slice()),
        b"system.posix_acl_default" => (XattrKind::AclDefault, b"".as_slice()),
        b"security.selinux" => return None,
        _ => {
            let dot = full.iter().position(|byte| *byte == b'.')?;
            let name = full.get(dot.checked_add(1)?..)?;
            let kind = match full.get(..dot)? {
                b"user" => XattrKind::User,
                b"trusted" => XattrKind::Trusted,
                b"security" => XattrKind::Security,
                _ => return None,
            };
            if name.is_empty() || name.starts_with(b"overlay.") {
                return None;
            }
            (kind, name)
        }
    };
    // Linux's own caps: XATTR_NAME_MAX for the whole name; EROFS keeps 16 bits of a value's size.
    let fits = full.len() <= 255 && value.len() < 1 << 16 && !name.contains(&0);
    fits.then(|| (kind, name.into(), value.into()))
}

/// Where a file's bytes are in the disk image that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Size of the file in bytes.
    pub size: u64,
    /// Its first block.
    pub block: u32,
    /// Its last, incomplete block lies beside the inode; this is where it waits meanwhile.
    pub tail: Option<u64>,
}

/// What is special about a kind of file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Directory(BTreeMap<Box<[u8]>, Child>),
    File(Contents),
    Symlink(Box<[u8]>),
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Child {
    pub inode: InodeId,
    /// The last layer that named it or anything below it.
    pub layer: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub metadata: Metadata,
    pub body: Body,
}

/// All inodes: those of deleted files too, until the disk is complete.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    metadata_left: u64,
    limits: (usize, u64),
}

impl Tree {
    pub const ROOT: InodeId = 0;

    /// An empty root directory.
    pub fn new(limits: &Limits) -> Self {
        let root = Inode {
            metadata: Metadata::implied(),
            body: Body::Directory(BTreeMap::new()),
        };
        let caps = (limits.inodes, limits.metadata_bytes);
        Self {
            inodes: vec![root],
            metadata_left: limits.metadata_bytes,
            limits: caps,
        }
    }

    pub fn get(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(id as usize)
    }

    pub(super) fn get_mut(&mut self, id: InodeId) -> Option<&mut Inode> {
        self.inodes.get_mut(id as usize)
    }

    pub fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    pub fn directory(&self, id: InodeId) -> Option<&BTreeMap<Box<[u8]>, Child>> {
        match &self.get(id)?.body {
            Body::Directory(children) => Some(children),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self, id: InodeId) -> Option<&mut BTreeMap<Box<[u8]>, Child>> {
        match &mut self.get_mut(id)?.body {
            Body::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Adds an inode that no directory names yet.
    pub(super) fn add(&mut self, metadata: Metadata, body: Body) -> Result<InodeId, super::TreeError> {
        let (inodes, _) = self.limits;
        let id = u32::try_from(self.inodes.len())
            .ok()
            .filter(|id| (*id as usize) < inodes);
        let id = id.ok_or(super::TreeError::Inodes(inodes))?;
        let target = if let Body::Symlink(target) = &body {
            target.len() as u64
        } else {
            0
        };
        self.weigh(metadata.xattrs.weight().saturating_add(target))?;
        self.inodes.push(Inode { metadata, body });
        Ok(id)
    }

    /// Counts bytes that stay in memory.
    pub(super) fn weigh(&mut self, bytes: u64) -> Result<(), super::TreeError> {
        let left = self.metadata_left.checked_sub(bytes);
        self.metadata_left = left.ok_or(super::TreeError::Metadata(self.limits.1))?;
        Ok(())
    }
}
