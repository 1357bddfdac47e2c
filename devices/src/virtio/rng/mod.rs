//! Entropy device (virtio 1.2 §5.4): random bytes from the host's kernel.

mod backend;
mod device;

pub use backend::{HostRandom, RandomSource};
pub use device::{Rng, RngMetrics, RngState};

#[cfg(test)]
mod tests;
