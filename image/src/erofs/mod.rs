//! Writes EROFS images: uncompressed, one device, 4 KiB blocks, as every Linux since 5.4 mounts them (Linux
//! documentation, filesystems/erofs.rst §on-disk details; `fs/erofs/erofs_fs.h`).
//!
//! ```text
//! block 0          superblock at byte 1024
//! block 1 …        contents of files, in the order they were read; whole blocks only
//! … then           blocks of directories
//! … then           inodes, each followed by its attributes and by its last, incomplete block
//! ```
//!
//! Contents go straight into the image while layers are read. What a later layer replaces becomes a hole. The
//! same layers give the same bytes: time, owner and host leave no trace.

mod crc;
mod data;
mod directory;
mod format;
mod image;
mod layout;

pub(crate) use data::DataWriter;
pub(crate) use image::write;

use std::io;

/// A disk image that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The file system of the store refused.
    #[error("writing the disk image failed")]
    Write(#[from] io::Error),
    /// The contents exceed what was allowed, holes included.
    #[error("the files of the image appear to hold more than {limit} bytes")]
    Size {
        /// The cap.
        limit: u64,
    },
    /// The tree and its layout disagree: a defect of this program.
    #[error("the layout of the disk image does not fit its tree")]
    Layout,
}
