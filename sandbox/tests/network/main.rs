//! Networks with the real netavark and the real kernel, each test with a network, a mount table and a /run of its own.
//!
//! Needs root, netavark, aardvark-dns, iproute2 and iputils-ping. A guest is played by a namespace whose tap is wired to
//! that of the microVM's namespace, frame by frame.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod attach;
mod definitions;
mod firewall;
mod guest;
mod host;
mod left;
mod takeover;
