//! virtio-net (virtio 1.2 §5.1): one receive and one transmit queue over a tap.
//!
//! ```text
//!  receive queue ─► buffers ◄─ rx ◄─┐                  what the guest wrote ─► frame, packet
//!                                   ├─ backend (tap)
//!  transmit queue ─► frame ──► tx ──┘                  what the host sees: lists of pieces of memory
//! ```
//!
//! Frames are not copied on their way: `readv(2)` and `writev(2)` work on the guest's own buffers. The tap leaves
//! checksums and segmentation to whoever is last to need them, so that bulk data crosses in frames of 64 KiB.
//!
//! A turn on the event loop is bounded in both directions; see [`TURN_BYTES`].

pub mod backend;
mod buffers;
mod device;
mod frame;
mod metrics;
pub mod packet;
mod rx;
mod state;
pub mod tap;
mod tx;

#[cfg(test)]
mod tests;

pub use backend::{Gather, NetBackend, Offloads, Scatter};
pub use device::{LimitUpdate, Net, NetConfig, NetError};
pub use metrics::NetMetrics;
pub use packet::MacAddress;
pub use state::NetState;
pub use tap::{Tap, TapError};

/// Index of the receive queue.
pub const RX: usize = 0;
/// Index of the transmit queue.
pub const TX: usize = 1;

/// Frames that one direction moves before other devices have their turn.
pub const TURN_FRAMES: u32 = 128;
/// Bytes that one direction moves before other devices have their turn: some 0.1 ms of work.
pub const TURN_BYTES: usize = 1 << 20;

/// Frames given to the driver before it is interrupted, if it wants to be, while more are being read.
const NOTIFY_FRAMES: u32 = 16;
/// Bytes given to the driver before it is interrupted.
const NOTIFY_BYTES: usize = 1 << 16;
