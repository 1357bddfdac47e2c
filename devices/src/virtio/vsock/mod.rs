//! virtio-vsock (virtio 1.2 §5.10): stream sockets between the guest and the host, where they are unix sockets.
//!
//! ```text
//!  client ──► uds_path        "CONNECT 52\n" ─► REQUEST ─►  guest listens on port 52
//!  server at  uds_path_53   ◄───────────────── REQUEST ◄─   guest connects to CID 2, port 53
//!
//!  transmit queue ─► tx ─► hub ─► connection ─► socket      packets become bytes
//!  receive queue  ◄─ rx ◄─ hub ◄─ connection ◄─ socket      bytes become packets
//! ```
//!
//! The protocol of the host's side is Firecracker's. The hub owns one epoll descriptor in which all sockets are nested, so
//! that the event loop sees a single one, the same for the device's whole life. Data is not copied on its way: `recvmsg(2)`
//! and `sendmsg(2)` work on the guest's own buffers, and one receives several packets where those buffers are small. Only
//! what a slow client does not take is kept, within the [window](WINDOW) that the guest was granted.
//!
//! Nothing here blocks, and a turn on the event loop is bounded; see [`TURN_BYTES`].

mod clients;
mod connection;
mod deadlines;
mod device;
mod guest;
mod hub;
mod line;
mod metrics;
pub mod packet;
mod pieces;
mod room;
mod rx;
pub(super) mod socket;
mod state;
mod tx;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use device::{Vsock, VsockConfig, VsockError};
pub use metrics::VsockMetrics;
pub use state::VsockState;

/// Index of the receive queue.
pub const RX: usize = 0;
/// Index of the transmit queue.
pub const TX: usize = 1;
/// Index of the event queue.
pub const EVENT: usize = 2;

/// Most connections at a time, those of clients that have not said yet where to included. Far more than one per process of a
/// busy guest, yet a guest and its clients together take no more than some 128 MiB of the host; see [`WINDOW`].
pub const CONNECTIONS_MAX: usize = 4096;

/// Bytes that the guest may send on a connection beyond what its client has taken. As much as Linux keeps for a stream:
/// newer kernels send no further ahead anyway.
pub const WINDOW: u32 = 256 << 10;
/// Connections at a time that get a whole [`WINDOW`].
pub const WIDE_WINDOWS: usize = 256;
/// The window of all others.
pub const NARROW_WINDOW: u32 = 16 << 10;

/// Packets that one direction moves before other devices have their turn.
pub const TURN_PACKETS: u32 = 512;
/// Bytes that one direction moves before other devices have their turn: some 0.2 ms of work.
pub const TURN_BYTES: usize = 1 << 20;

/// Longest line that a client can ask for a connection with, the end of line included.
pub const LINE_MAX: usize = 32;
/// How long a client may take to say where it wants to be connected to. It may be typing.
pub const LINE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the guest may take to accept or refuse a connection.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection of the guest waits for room in the backlog of a listening socket.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(2);
/// How long the guest may take to confirm that a connection is closed.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a client may take nothing of what the guest sent before it closed, until the rest is dropped.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(60);
