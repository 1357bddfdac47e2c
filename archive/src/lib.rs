//! Files and folders as a tar stream (POSIX.1-2001 pax), between a host and a container.
//!
//! ```text
//!  pack:   folder (a descriptor) ─► walk by descriptors, no link followed ─► headers and contents
//!  unpack: headers and contents ─► each parent resolved anew below the folder ─► files, links, modes, times
//! ```
//!
//! Both ends distrust each other: names cannot leave the folder that a stream is unpacked in, neither by `..` nor by
//! links that the stream made before; a file that becomes something else while it is packed is noticed.
#![forbid(unsafe_code)]

mod entry;
mod error;
mod pack;
mod reader;
mod unpack;
mod writer;

pub use entry::{Entry, Kind};
pub use error::ArchiveError;
pub use pack::pack;
pub use reader::Reader;
pub use unpack::{Owner, Unpack, Unpacked, last_part, open_folder};
pub use writer::Writer;
