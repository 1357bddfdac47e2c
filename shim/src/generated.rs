//! Messages and services of containerd, generated from `proto/*.proto`.

#![allow(missing_docs, unused_qualifications, clippy::all)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![allow(dead_code, reason = "both ends of the services are generated")]

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
