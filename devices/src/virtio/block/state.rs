//! A disk in a snapshot: what the device adds to its queues, which the transport saves.

use serde::{Deserialize, Serialize};

use super::device::{Block, CacheMode};
use crate::rate_limiter::{RateLimiter, RateLimiterState};
use crate::state::{RestoreError, Snapshot};

const NAME: &str = "drive";
/// Version of [`BlockState`].
const VERSION: u32 = 1;

/// A saved disk. Its bytes are not in it: they stay in their file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Format version, 1.
    pub version: u32,
    /// Id of the drive, which the guest may know as its serial number.
    pub id: String,
    /// Whether the guest cannot change it.
    pub read_only: bool,
    /// What a flush means.
    pub cache: CacheMode,
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Limits, and what is left of them.
    pub rate_limiter: RateLimiterState,
}

impl Snapshot for Block {
    type State = BlockState;

    fn save(&self) -> BlockState {
        BlockState {
            version: VERSION,
            id: self.id().to_owned(),
            read_only: self.read_only(),
            cache: self.cache(),
            sectors: self.sectors(),
            rate_limiter: self.limiter().save(),
        }
    }

    /// The disk must look to the guest as it did, so the file given to the constructor must be at least as large
    /// as the saved one was.
    fn restore(&mut self, state: &BlockState) -> Result<(), RestoreError> {
        RestoreError::check_version(NAME, state.version, VERSION)?;
        let check = |valid, field, expected| RestoreError::check(valid, NAME, field, expected);
        check(
            state.id == self.id(),
            "id",
            "the id that the drive is configured with",
        )?;
        check(
            state.read_only == self.read_only(),
            "read_only",
            "as the drive is configured",
        )?;
        check(state.cache == self.cache(), "cache", "as the drive is configured")?;
        check(
            state.sectors <= self.sectors(),
            "sectors",
            "no more than the drive's file has now",
        )?;
        self.set_limiter(RateLimiter::restore(&state.rate_limiter)?);
        Ok(())
    }
}
