//! The devices of a microVM, each as its guest sees it.
//!
//! ```text
//!  vCPU exit ──► bus ──► legacy device            ──► interrupt line ─► guest
//!                   └──► virtio::mmio transport
//!                            │ queues, by value, at DRIVER_OK
//!                            ▼
//!  event loop ─► virtio::adaptor ─► virtio device ──► backend (file, tap, random source)
//! ```
//!
//! This crate knows no KVM: whoever runs the guest implements [`InterruptLine`], [`virtio::Doorbells`]
//! and [`legacy::MsiRouter`] with whatever delivers interrupts and doorbells on that host.

pub mod bus;
pub mod interrupt;
pub mod legacy;
pub mod memory;
pub mod rate_limiter;
pub mod state;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
pub use interrupt::InterruptLine;
pub use memory::GuestRam;
pub use rate_limiter::RateLimiter;
pub use state::{Metered, RestoreError, Snapshot};

#[cfg(test)]
mod misuse;
