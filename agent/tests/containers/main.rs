//! The real agent, listening on unix sockets, with real containers.
//!
//! Needs root, a cgroup v2 tree at /sys/fs/cgroup and a static /bin/busybox:
//! where a machine lacks one of them, run the test's program in the KVM host,
//! `tests/host/kvm-host run -- PROGRAM`. It fails where they are missing.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod copy;
mod exec;
mod files;
mod lifecycle;
mod limits;
mod mounts;
mod network;
mod place;
mod refusals;
mod security;
mod specification;
mod streams;
mod system;
mod terminal;
mod user_namespace;
