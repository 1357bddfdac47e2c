//! The protocol between a host and the agent in its microVM.
//!
//! ```text
//!  host                                            guest
//!  client::connect ── ttRPC ── vsock, RPC_PORT ──► agent: service koya.agent.v1.Agent
//!  stream::open    ── bytes ── vsock, STREAM_PORT ► stdin, stdout, stderr or terminal of a process
//! ```
//!
//! [`v1`] holds the messages of `proto/agent.proto`, [`client`] a client over
//! any connected socket, [`stream`] the header that a stream begins with,
//! [`names`] what a stream of questions carries, and [`error`] the kinds of
//! errors both ends agree on.

// Denied and not forbidden, for the generated code to say that it may (it does not).
#![deny(unsafe_code)]

pub mod client;
pub mod error;
pub mod names;
pub mod stream;

#[allow(missing_docs, unused_qualifications, clippy::all)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// Messages and service of `koya.agent.v1`, generated from `proto/agent.proto`,
/// where every field is described. The service is there with the feature
/// `server`.
pub mod v1 {
    pub use crate::generated::agent::*;
    #[cfg(feature = "server")]
    pub use crate::generated::agent_ttrpc::{Agent, create_agent};
}

/// Version of this protocol whose change breaks older peers.
pub const PROTOCOL_MAJOR: u32 = 1;
/// Version of this protocol that grows with every addition.
pub const PROTOCOL_MINOR: u32 = 2;

/// ttRPC name of the service.
pub const SERVICE: &str = "koya.agent.v1.Agent";

/// vsock port of the agent's RPC. Below 1024: only a privileged process of the
/// guest could bind it.
pub const RPC_PORT: u32 = 900;
/// vsock port to which the host connects once for each stream.
pub const STREAM_PORT: u32 = 901;

/// vsock port of the host that the agent connects to as soon as it listens, so that nobody has to ask again and again
/// whether it does. The connection is one for RPC, as if the host had made it. It is the first thing that anybody in
/// the guest can do, and a host takes one such connection only. With `koya.template` on the kernel's command line there is
/// one before, on which nothing is said: once it has ended, which it does when the guest goes on from a snapshot, the agent
/// has the kernel look for new devices, and calls again.
pub const CALL_PORT: u32 = 902;

/// File names of the two sockets when the agent listens on unix sockets.
pub const RPC_SOCKET: &str = "rpc.sock";
/// See [`RPC_SOCKET`].
pub const STREAM_SOCKET: &str = "stream.sock";

/// Largest `config.json` or process JSON that the agent takes, in bytes; a
/// request has to fit into ttRPC's 4 MiB with room to spare.
pub const MAX_JSON: usize = 1 << 20;

/// Folder of the guest in which shares of the host are mounted, each by its tag.
pub const SHARES: &str = "/run/koya/shares";
