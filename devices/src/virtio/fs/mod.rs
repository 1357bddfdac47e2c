//! File system device (virtio 1.2 §5.11): a folder of the host, which the guest mounts by its tag.
//!
//! ```text
//!  guest's driver ─ doorbell ─► ioeventfd ───────────────► virtiofsd (or alike): a process of its own, in a sandbox
//!        ▲                                                    │    │ maps guest memory, of which it gets the descriptor
//!        └────────────── irqfd ◄──────────────────────────────┘    ▼
//!  device ─ vhost-user: features, memory, rings, events ─► unix socket      the folder
//! ```
//!
//! The queues are served by another program (vhost-user): requests, data and interrupts never pass through this
//! process, which only says where the rings are when the driver starts the device, and takes them back when it resets
//! it. The program is not trusted to be there, to answer in time or to answer well: whatever goes wrong, the device
//! needs a reset, and everything else goes on. It can, however, read and write all of the guest's memory.
//!
//! The device cannot be saved (it is no [`Snapshot`](crate::Snapshot)): which files the guest knows and holds open is the
//! program's to remember.

mod device;
mod program;

#[cfg(test)]
mod tests;

pub use device::{Fs, MAX_TAG};
pub use program::{ANSWER_TIME, Program, ProgramError, START_TIME};
