//! Whole-system tests with Linux guests: the program `koya-vmm` through its public doors, on a KVM host that runs stock
//! kernels. They run as root, because some of them make taps and mounts, each in a namespace of its own.
//!
//! A boot costs seconds where KVM is emulated. So several tests look at one guest: the first of them boots it, and each
//! asserts its own part of what it reported.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected is to fail, helpers of tests included"
)]

mod boot;
mod console;
mod containerd;
mod disk;
mod docker;
mod doors;
mod foreign;
mod fs;
mod guest;
mod koya;
mod kubernetes;
mod machine;
mod net;
mod network;
mod pause;
mod podman;
mod prepared;
mod report;
mod running;
mod runtime;
mod snapshot;
mod support;
mod systemd;
mod terminals;
mod vsock;
