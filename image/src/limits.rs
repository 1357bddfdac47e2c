//! How much an image may ask for.

/// Caps on what loading one image may cost. The defaults let every ordinary image through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest, an index or a config. The distribution specification asks registries for 4 MiB.
    pub document_bytes: u64,
    /// Layers of an image. Docker itself stops at 127.
    pub layers: usize,
    /// Bytes of all layers together once decompressed: what must be read, hashed and perhaps written.
    pub unpacked_bytes: u64,
    /// Bytes of all files together, holes of sparse files included: the size the disk appears to have. EROFS
    /// ends at 2³² blocks (16 TiB).
    pub apparent_bytes: u64,
    /// Files, directories and links, also those that later layers delete: each stays in memory while loading.
    pub inodes: usize,
    /// Bytes of names, link targets and extended attributes together: they stay in memory while loading.
    pub metadata_bytes: u64,
    /// How many times larger than its compressed form a layer may grow, once it is larger than
    /// [`Self::ratio_floor`]. gzip cannot exceed 1032 by itself; zstd can reach 100000.
    pub ratio: u64,
    /// Decompressed bytes of a layer from which on [`Self::ratio`] counts: small layers of zeros are harmless.
    pub ratio_floor: u64,
    /// Bytes of compressed layers that are kept after a pull, for the next image that has them.
    pub cache_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 4 << 20,
            layers: 512,
            unpacked_bytes: 128 << 30,
            apparent_bytes: 2 << 40,
            inodes: 2_000_000,
            metadata_bytes: 1 << 30,
            ratio: 300,
            ratio_floor: 2 << 30,
            cache_bytes: 4 << 30,
        }
    }
}
