//! Writing the tables of a boot to guest memory.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

/// A table that guest memory did not take.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the {table} to guest memory at {address:#x}")]
pub struct TablesError {
    /// Which table.
    pub table: &'static str,
    /// Its guest-physical address.
    pub address: u64,
    /// The failure.
    pub source: GuestMemoryError,
}

/// Writes `bytes` as `table` at `address`.
pub(super) fn write<M: GuestMemoryBackend>(
    memory: &M,
    table: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), TablesError> {
    let failed = |source| TablesError {
        table,
        address,
        source,
    };
    memory.write_slice(bytes, GuestAddress(address)).map_err(failed)
}
