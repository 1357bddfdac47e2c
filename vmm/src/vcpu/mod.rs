//! The guest's processors: one thread each.
//!
//! ```text
//!  event loop ──pause/resume/stop──► gate ◄──checks before each KVM_RUN── vCPU thread
//!       ▲                                                                    │ exits
//!       └────────────── end line ◄──── reset, power off, fault ──────────────┘
//! ```

mod exits;
pub mod fault;
mod gate;
mod kick;
mod thread;

pub use exits::Buses;
pub use fault::VcpuFault;
pub use gate::Gate;
pub use thread::{VcpuThreadError, Vcpus};
