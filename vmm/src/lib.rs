//! The microVM monitor: the only crate that talks to KVM, and the only one that joins the API, the devices and the
//! boot code.
//!
//! ```text
//!  vm.json / HTTP ─► monitor ─► resources (opens kernel, disks, taps: once) ─► machine (typed phases, each
//!  consumes the last) ─► vCPU threads + one event loop
//! ```

pub mod boot_timer;
pub mod cli;
pub mod console;
mod descriptors;
pub mod ending;
pub mod event_loop;
pub mod exit;
pub mod kvm;
pub mod logger;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod resources;
pub mod run;
pub mod seccomp;
pub mod signals;
pub mod sink;
pub mod snapshot;
pub mod time;
pub mod vcpu;
