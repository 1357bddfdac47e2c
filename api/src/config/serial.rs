//! Where the serial console's output goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{PathError, TokenBucket, check_path};

/// The serial console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// A file or named pipe on the host for the output; without it, the VMM's own standard output.
    pub serial_out_path: Option<PathBuf>,
    /// How many bytes the guest may write. Not supported yet: a bucket that limits anything is refused.
    pub rate_limiter: Option<TokenBucket>,
}

impl Serial {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn validate(&self) -> Result<(), PathError> {
        self.serial_out_path
            .as_deref()
            .map_or(Ok(()), |path| check_path("serial_out_path", path))
    }
}
