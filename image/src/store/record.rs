//! What the store knows about its images, as JSON files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Reference};

/// `images/<id>.json`: one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: Digest,
    /// Manifests and indexes it came from.
    pub digests: Vec<Digest>,
    pub layers: Vec<Digest>,
    /// Layers as a registry stores them, which may be in the cache.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stored: Vec<Digest>,
    /// Names its disk.
    pub disk: Digest,
    /// Bytes of all layers, decompressed.
    pub size: u64,
    /// Seconds since 1970.
    pub loaded: u64,
    /// File, folder or name it came from last.
    pub origin: String,
}

/// `index.json`: names of images, and what files and folders held when they were last loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub names: BTreeMap<Reference, Digest>,
    #[serde(default)]
    pub sources: BTreeMap<String, Seen>,
}

/// A file or folder as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Changes whenever the file or folder does.
    pub stamp: Digest,
    pub images: Vec<SeenImage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeenImage {
    pub id: Digest,
    pub names: Vec<Reference>,
}
