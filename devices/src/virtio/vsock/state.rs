//! What a snapshot keeps of a socket device.
//!
//! Positions and features belong to the transport. Connections are not kept: their other ends are processes of the
//! host, which do not travel with the guest. A guest brought back is told so (virtio 1.2 §5.10.6.7).

use serde::{Deserialize, Serialize};

use super::device::{Vsock, check_cid};
use crate::state::{RestoreError, Snapshot};

const DEVICE: &str = "socket device";
/// Format of [`VsockState`] that this build reads and writes.
const VERSION: u32 = 1;

/// State of a socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// Format of this structure.
    pub version: u32,
    /// The guest's address.
    pub guest_cid: u32,
}

impl Snapshot for Vsock {
    type State = VsockState;

    fn save(&self) -> VsockState {
        VsockState {
            version: VERSION,
            guest_cid: self.guest_cid(),
        }
    }

    fn restore(&mut self, state: &VsockState) -> Result<(), RestoreError> {
        RestoreError::check_version(DEVICE, state.version, VERSION)?;
        let valid = check_cid(state.guest_cid).is_ok();
        RestoreError::check(valid, DEVICE, "guest_cid", "from 3 to 4294967294")?;
        self.set_restored(state.guest_cid);
        Ok(())
    }
}
