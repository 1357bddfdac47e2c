//! What can go wrong with an image, as one type for callers.

use std::io;
use std::path::PathBuf;

use crate::{
    ArchiveError, DiskError, LayerError, ManifestError, ReferenceError, RegistryError, StoreError, TarError,
    TreeError,
};

/// An image could not be found, loaded or used. Sources of errors are told by `source`, not repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A name cannot name an image.
    #[error("\"{text}\" is no image name")]
    Reference {
        /// As given.
        text: String,
        /// Which part is wrong.
        source: ReferenceError,
    },
    /// No image in the store has this name.
    #[error("no image \"{0}\" here; `koya images` lists what there is, `koya pull` and `koya load` add some")]
    NotFound(String),
    /// The beginning of an id fits several images.
    #[error("\"{0}\" is the beginning of several image ids: give more digits")]
    Ambiguous(String),
    /// An image cannot be pulled.
    #[error("{image}: cannot be pulled")]
    Pull {
        /// Its name.
        image: String,
        /// Why.
        source: Box<RegistryError>,
    },
    /// A file or folder given as an image cannot be opened.
    #[error("{path}: cannot be opened as an image")]
    Open {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder given as an image is not one.
    #[error("{path}: is no image that can be read")]
    Archive {
        /// As given.
        path: PathBuf,
        /// Why.
        source: ArchiveError,
    },
    /// The manifest, index or config of an image is wrong.
    #[error("{origin}: its manifest cannot be used")]
    Manifest {
        /// File, folder or name of the image.
        origin: String,
        /// Why.
        source: ManifestError,
    },
    /// A layer's bytes are not what they should be.
    #[error("layer {number} of {of} ({name}) is refused")]
    Layer {
        /// Counted from 1, lowest layer first.
        number: usize,
        /// How many layers there are.
        of: usize,
        /// Its digest or file name.
        name: String,
        /// Why.
        source: LayerError,
    },
    /// A layer is no tar archive, or a malformed one.
    #[error("layer {number} of {of} ({name}) cannot be read")]
    Tar {
        /// Counted from 1, lowest layer first.
        number: usize,
        /// How many layers there are.
        of: usize,
        /// Its digest or file name.
        name: String,
        /// Why.
        source: TarError,
    },
    /// A layer has an entry that cannot be applied.
    #[error("layer {number} of {of} ({name}) has an entry that is refused")]
    Tree {
        /// Counted from 1, lowest layer first.
        number: usize,
        /// How many layers there are.
        of: usize,
        /// Its digest or file name.
        name: String,
        /// Why.
        source: TreeError,
    },
    /// A file of a folder cannot be read.
    #[error("{path}: cannot be read into an image")]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder cannot become an image as it is.
    #[error("{path}: cannot become an image")]
    FolderTree {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// The disk image cannot be written.
    #[error("the disk of the image cannot be made")]
    Disk(#[from] DiskError),
    /// The store is in the way.
    #[error("the image store cannot be used")]
    Store(#[from] StoreError),
}
