//! Whole-system tests with tiny guests: the program `koya-vmm` through its public doors (command line, config file, API
//! socket, terminal, signals), on any `/dev/kvm`. They run as root, because some of them make taps, mounts and network
//! namespaces, each in a namespace of its own.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected is to fail, helpers of tests included"
)]

mod api;
mod bad_input;
mod confinement;
mod console;
mod endings;
mod hostile;
mod leftovers;
mod plug;
mod snapshot;
mod support;
mod terminal;
mod vcpus;
