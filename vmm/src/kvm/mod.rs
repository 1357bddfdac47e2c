//! The host's KVM: opening it, and the virtual machine it gives.
//!
//! Everything here is ordered by what it costs (measured; see `docs/architecture.md`): guest memory is registered
//! before the interrupt controller exists, only the local APICs live in the kernel, and nothing is registered
//! that a guest may never use.

pub mod clock;
pub mod cpuid;
pub mod doorbell;
pub mod interrupt;
pub mod msr;
pub mod routing;
pub mod start;
pub mod state;
mod vm;

pub use vm::{KvmError, KvmHost, Vm};
