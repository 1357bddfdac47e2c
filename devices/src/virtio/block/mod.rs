//! virtio-blk (virtio 1.2 §5.2): a disk whose bytes live in a file or block device of the host.
//!
//! ```text
//!  chain ─► request: what the guest asks for, checked ─► device: limits, order, status
//!                       │ data as GuestBuffers                │
//!                       └──────────► BlockBackend ◄───────────┘
//!                                      ├ FileBackend   at once, on the caller's thread
//!                                      └ UringBackend  in flight, told by an eventfd
//! ```
//!
//! Disks are raw: byte 0 of the file is byte 0 of the disk. No format is ever probed, and there are no backing
//! files, so nothing that a guest writes into its disk can make the host open another file. There is no SCSI
//! passthrough. A read-only disk is opened read-only; the guest is told, but not trusted to obey.
//!
//! Files are not locked: platforms that drive Firecracker-compatible monitors legitimately hold the same file twice
//! for a while (a paused microVM and the one restored from its snapshot), and share read-only ones freely. Whoever
//! hands out writable disks makes sure that each has one user.

mod active;
pub mod backend;
pub mod buffers;
mod config;
pub mod device;
mod engine;
pub mod error;
pub mod file;
mod flight;
mod incident;
pub mod metrics;
mod open;
pub mod request;
mod run;
pub mod serial;
pub mod state;
pub mod uring;

#[cfg(test)]
mod tests;

pub use backend::{BlockBackend, Done, Job, Operation};
pub use buffers::GuestBuffers;
pub use device::{Block, BlockConfig, CacheMode};
pub use error::BlockError;
pub use file::FileBackend;
pub use metrics::BlockMetrics;
pub use state::BlockState;
pub use uring::UringBackend;

/// Bytes of a sector, the unit of every position and size in the protocol, whatever the host's block size is.
pub const SECTOR_SIZE: u64 = 512;

/// Descriptors of the queue; Firecracker's size, so that its snapshots and its users' tuning carry over.
pub const QUEUE_SIZE: u16 = 256;

/// Data segments of one request: what a whole queue of descriptors leaves beside header and status.
pub const MAX_SEGMENTS: u32 = 254;

/// Bytes of one data segment.
pub const MAX_SEGMENT_SIZE: u32 = 256 * 1024;

/// Bytes of data that one request may carry, 63.5 MiB: all segments a driver may use at their largest. A cap,
/// because the same guest page may be named any number of times, and one request is served in one piece.
pub const MAX_TRANSFER: u32 = MAX_SEGMENTS * MAX_SEGMENT_SIZE;

/// Descriptors that one chain may have, counted with its indirect table. More than a driver may use, so that one that
/// splits its buffers at odd places is still understood; no more than one `preadv(2)` takes.
pub const MAX_DESCRIPTORS: usize = 1024;

/// Sectors that one range of a discard may cover: 1 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;

/// Sectors that one range of a write-zeroes may cover: 64 MiB, as a host file system without a way to zero a
/// range has to write them.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 17;

/// Ranges of one discard. File systems collect freed extents and send them together.
pub const MAX_DISCARD_RANGES: u32 = 16;

/// Ranges of one write-zeroes.
pub const MAX_WRITE_ZEROES_RANGES: u32 = 1;
