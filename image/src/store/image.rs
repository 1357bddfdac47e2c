//! An image of the store.

use super::record::Record;
use crate::{Digest, ImageConfig, Reference};

/// An image that is in the store, as it was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub(super) record: Record,
    pub(super) names: Vec<Reference>,
    pub(super) config: ImageConfig,
    pub(super) config_json: String,
}

impl Image {
    /// The digest of its config: the same wherever it came from, and what docker calls its id.
    pub fn id(&self) -> &Digest {
        &self.record.id
    }

    /// Names it has now; may be none.
    pub fn names(&self) -> &[Reference] {
        &self.names
    }

    /// Digests of the manifests and indexes it came from; none for archives without.
    pub fn digests(&self) -> &[Digest] {
        &self.record.digests
    }

    /// How to run it.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its config as it was, with what [`ImageConfig`] leaves out.
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// Digests of its decompressed layers, lowest first (`diff_ids`).
    pub fn layers(&self) -> &[Digest] {
        &self.record.layers
    }

    /// Bytes of its layers, decompressed.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// When it was loaded, in seconds since 1970.
    pub fn loaded(&self) -> u64 {
        self.record.loaded
    }

    /// The file, folder or name it came from last.
    pub fn origin(&self) -> &str {
        &self.record.origin
    }
}
