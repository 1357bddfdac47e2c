//! The host's side of a microVM with an agent in it: finding the parts, starting the VMM, talking to the agent.
//!
//! ```text
//!  Sandbox::start ── vm.json, initramfs ─► koya-vmm (a process of its own) ── vsock ─► koya-agent (PID 1)
//!       │                                                                                 │
//!       └── AgentClient: create, start, wait … ◄── RPC port ── stream port ─► stdin, stdout, stderr, terminal
//! ```
//!
//! A microVM of a kind that was started before is forked from a template, and does not boot (see `template`).
//!
//! Nothing here links the VMM: it is a process, started with a config file and known by its folder.

pub mod bundle;
mod chance;
pub mod container;
pub mod copy;
pub mod hybrid;
mod initramfs;
mod kind;
pub mod log;
pub mod monitor;
pub mod network;
pub mod parts;
pub mod patient;
pub mod resident;
pub mod rights;
mod sandbox;
pub mod scratch;
pub mod settings;
pub mod signals;
pub mod sockets;
pub mod state;
pub mod stdio;
mod tail;
mod template;
pub mod timeline;
pub mod volumes;

pub use kind::Kind;
pub use sandbox::{
    DeviceError, Devices, Disk, Lent, Progress, Sandbox, SandboxSpec, Share, StartError, vsock,
};
