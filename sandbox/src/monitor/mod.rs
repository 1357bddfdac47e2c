//! The monitor of a microVM: the process that boots it, keeps it, and ends with it.
//!
//! ```text
//!  koya run ─┐  m.sock   ┌───────────────────────────┐  vsock   ┌─────────────────────┐
//!  attach   ─┼──────────►│ monitor: VMM, rooms, logs │◄────────►│ agent, containers   │
//!  rm       ─┘  frames   └───────────────────────────┘  streams └─────────────────────┘
//! ```
//!
//! There is one for each microVM that runs. It holds the microVM's lock, starts containers in it when asked to, passes
//! their output to their logs and to everybody who is attached, writes down how they ended, and ends itself when none is
//! left. If it dies, the VMM dies with it, and whoever looks next finds the lock free.
//!
//! What needs no state of the host goes to the agent directly: signals, other processes, statistics.

mod boot;
mod change;
mod client;
mod ends;
mod error;
mod health;
mod output;
mod outside;
mod protocol;
mod restart;
mod room;
mod serve;
mod server;
mod slots;

pub(crate) use ends::one_line;

pub use client::{Connection, Event, MonitorError, Program, attach, freeze, hang_up, remove, start, update};
pub use serve::{ServeError, serve};

/// The monitor's socket in the microVM's folder.
const SOCKET: &str = "m.sock";
