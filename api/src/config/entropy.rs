//! The device that gives the guest random numbers.

use serde::{Deserialize, Serialize};

use super::RateLimiter;

/// An entropy device; its presence in the configuration is what adds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// How fast the guest may draw on it; without it, as fast as it can.
    pub rate_limiter: Option<RateLimiter>,
}
