//! The merged file tree of an image, in memory: metadata only, contents lie in the disk image already.
//!
//! Names in layers are resolved here and nowhere else. `..` in a name is refused, a leading `/` means the root
//! of the image, and a symbolic link met on the way to a file is followed within this tree as `chroot` would:
//! there is nothing outside it to reach.

mod apply;
mod node;
mod resolve;

pub(crate) use apply::{Layer, NewNode};
pub(crate) use node::{Body, Contents, Inode, InodeId, Metadata, Tree, Xattrs};

/// A name in a layer that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The name has a `..` in it.
    #[error("\"{0}\" has .. in its name, which could lead outside the image")]
    Parent(String),
    /// A part of the name is too long for Linux.
    #[error("\"{0}\" has a part of more than 255 bytes")]
    Name(String),
    /// The name has a zero byte in it.
    #[error("\"{0}\" has a zero byte in its name")]
    Zero(String),
    /// Something other than a directory would replace the root.
    #[error("\"{0}\" would replace the root directory")]
    Root(String),
    /// A file lies where a directory would have to be.
    #[error("\"{path}\" lies below \"{parent}\", which is no directory")]
    NotDirectory {
        /// The entry.
        path: String,
        /// The part that is in its way.
        parent: String,
    },
    /// More than 40 symbolic links on the way, as in a loop.
    #[error("\"{0}\" leads through too many symbolic links")]
    Loop(String),
    /// A hard link's target is not there.
    #[error("\"{path}\" is a hard link to \"{target}\", which does not exist")]
    LinkTarget {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A hard link's target is a directory.
    #[error("\"{path}\" is a hard link to the directory \"{target}\"")]
    LinkDirectory {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A symbolic link to nothing at all.
    #[error("\"{0}\" is a symbolic link without a target")]
    EmptyLink(String),
    /// A whiteout that names nothing.
    #[error("\"{0}\" is a whiteout that names no file")]
    Whiteout(String),
    /// A device number Linux cannot have.
    #[error("\"{path}\" is device {major}:{minor}; a major number ends at 4095, a minor one at 1048575")]
    Device {
        /// The node.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// More files than the cap.
    #[error("the image has more than {0} files, directories and links")]
    Inodes(usize),
    /// More bytes of names and attributes than the cap.
    #[error("the image has more than {0} bytes of names, link targets and attributes")]
    Metadata(u64),
}
