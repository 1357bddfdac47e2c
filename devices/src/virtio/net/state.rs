//! What a snapshot keeps of a network device.
//!
//! Positions and features belong to the transport. Frames in flight are not kept: a network may lose frames.

use serde::{Deserialize, Serialize};

use super::backend::NetBackend;
use super::device::{Net, check_mtu};
use super::packet::MacAddress;
use crate::rate_limiter::{RateLimiter, RateLimiterState};
use crate::state::{RestoreError, Snapshot};

const DEVICE: &str = "network device";
/// Format of [`NetState`] that this build reads and writes.
const VERSION: u32 = 1;

/// State of a network device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// Format of this structure.
    pub version: u32,
    /// The guest's address, if the host chose one.
    pub mac: Option<MacAddress>,
    /// Largest packet that the guest is told to send, in bytes, if the host chose one.
    pub mtu: Option<u16>,
    /// The limit of what the guest receives.
    pub rx_limiter: RateLimiterState,
    /// The limit of what the guest sends.
    pub tx_limiter: RateLimiterState,
}

impl<B: NetBackend> Snapshot for Net<B> {
    type State = NetState;

    fn save(&self) -> NetState {
        let (rx, tx) = self.limiters();
        NetState {
            version: VERSION,
            mac: self.mac(),
            mtu: self.mtu(),
            rx_limiter: rx.save(),
            tx_limiter: tx.save(),
        }
    }

    fn restore(&mut self, state: &NetState) -> Result<(), RestoreError> {
        RestoreError::check_version(DEVICE, state.version, VERSION)?;
        let mtu = state.mtu.is_none_or(|mtu| check_mtu(mtu).is_ok());
        RestoreError::check(mtu, DEVICE, "mtu", "at least 68")?;
        let limiters = (
            RateLimiter::restore(&state.rx_limiter)?,
            RateLimiter::restore(&state.tx_limiter)?,
        );
        self.set_identity(state.mac, state.mtu);
        self.set_limiters(limiters.0, limiters.1);
        Ok(())
    }
}
