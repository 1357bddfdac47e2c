//! Where images come from, and how people write it.

mod archive;
mod blobs;
mod docker;
pub(crate) mod document;
pub(crate) mod folder;
pub(crate) mod layout;
mod open;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use blobs::Blob;
pub(crate) use document::{ARCHITECTURE, OS};
pub(crate) use open::{Opened, Resolved, open};

use crate::{Digest, ImageError, Reference, TarError};

/// Something that an image can be loaded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// By name: one that is in the store.
    Reference(Reference),
    /// A file or folder, whatever it turns out to be: OCI image layout, `oci-archive`, `docker save`, or the
    /// root file system itself as a tar (also .gz, .zst) or folder.
    Path(PathBuf),
    /// `oci:PATH[:NAME]`: a folder in OCI image layout.
    OciLayout {
        /// The folder with `oci-layout` and `index.json`.
        path: PathBuf,
        /// Which image, where there are several.
        name: Option<String>,
    },
    /// `oci-archive:PATH[:NAME]`: a tar of an OCI image layout.
    OciArchive {
        /// The tar, possibly compressed.
        path: PathBuf,
        /// Which image, where there are several.
        name: Option<String>,
    },
    /// `docker-archive:PATH[:NAME]`: what `docker save` writes.
    DockerArchive {
        /// The tar, possibly compressed.
        path: PathBuf,
        /// Which image, where there are several.
        name: Option<String>,
    },
}

impl Source {
    /// Understands what is given as an image on a command line. Files and folders are told from names by a
    /// leading `.` or `/`, or by an ending such as `.tar`; nothing is looked up.
    ///
    /// # Errors
    /// [`ImageError::Reference`] if it is neither.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if let Some((scheme, rest)) = text.split_once(':') {
            let (path, name) = path_and_name(rest);
            match scheme {
                "oci" => return Ok(Self::OciLayout { path, name }),
                "oci-archive" => return Ok(Self::OciArchive { path, name }),
                "docker-archive" => return Ok(Self::DockerArchive { path, name }),
                "dir" => return Ok(Self::Path(rest.into())),
                "docker" => return reference(rest.trim_start_matches('/')).map(Self::Reference),
                _ => {}
            }
        }
        if text.starts_with(['.', '/']) || ENDINGS.iter().any(|ending| text.ends_with(ending)) {
            return Ok(Self::Path(text.into()));
        }
        reference(text).map(Self::Reference)
    }

    /// The file or folder, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Reference(_) => None,
            Self::Path(path)
            | Self::OciLayout { path, .. }
            | Self::OciArchive { path, .. }
            | Self::DockerArchive { path, .. } => Some(path),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path, name) = match self {
            Self::Reference(reference) => return f.write_str(&reference.familiar()),
            Self::Path(path) => return path.display().fmt(f),
            Self::OciLayout { path, name } => ("oci", path, name),
            Self::OciArchive { path, name } => ("oci-archive", path, name),
            Self::DockerArchive { path, name } => ("docker-archive", path, name),
        };
        write!(f, "{scheme}:{}", path.display())?;
        name.iter().try_for_each(|name| write!(f, ":{name}"))
    }
}

const ENDINGS: [&str; 7] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".oci", "/"];

/// A path ends at its first colon.
fn path_and_name(text: &str) -> (PathBuf, Option<String>) {
    match text.split_once(':') {
        Some((path, name)) => (path.into(), Some(name.to_owned())),
        None => (text.into(), None),
    }
}

fn reference(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|source| ImageError::Reference {
        text: text.chars().take(300).collect(),
        source,
    })
}

/// A file or folder that holds no image that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("reading failed")]
    Read(#[from] io::Error),
    /// It is no tar archive, or a malformed one.
    #[error("it is no tar archive, neither plain nor compressed with gzip or zstd")]
    Tar(#[from] TarError),
    /// It is a compressed file that cannot be decompressed.
    #[error("it cannot be decompressed")]
    Decompress(#[source] crate::LayerError),
    /// It is neither a file nor a folder.
    #[error("it is neither a regular file nor a folder")]
    Kind,
    /// A folder or tar without what makes it an OCI layout.
    #[error("it has no index.json, as an OCI image layout must")]
    NoIndex,
    /// A tar without what makes it `docker save`'s.
    #[error("it has no manifest.json, as an archive of `docker save` must")]
    NoManifest,
    /// It has more members than any image.
    #[error("it has more than {0} members")]
    Members(usize),
}

/// A manifest, index or config that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A document or layer is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// A document cannot be read.
    #[error("{what} cannot be read")]
    Read {
        /// Its name or digest.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A document is no JSON of its kind.
    #[error("{what} is malformed")]
    Json {
        /// Its name or digest.
        what: String,
        /// Where.
        source: serde_json::Error,
    },
    /// A document is larger than its cap.
    #[error("{what} has more than {limit} bytes")]
    Large {
        /// Its name or digest.
        what: String,
        /// The cap.
        limit: u64,
    },
    /// A document has another digest than what names it.
    #[error("the bytes of {expected} have the digest {actual}")]
    Digest {
        /// By which it is named.
        expected: Digest,
        /// Of its bytes.
        actual: Digest,
    },
    /// A document or layer has another size than its descriptor says.
    #[error("{what} has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// Its name or digest.
        what: String,
        /// In the descriptor.
        expected: u64,
        /// Of the file.
        actual: u64,
    },
    /// A digest that is none, or of an unsupported algorithm.
    #[error("a digest cannot be used")]
    BadDigest(#[from] crate::DigestError),
    /// A media type that is unknown or means something else.
    #[error("{what} has the media type \"{found}\", which is not supported")]
    MediaType {
        /// Its digest.
        what: String,
        /// In the descriptor.
        found: String,
    },
    /// A document that reads as a manifest and as an index at once.
    #[error("{0} has both layers and manifests: it could mean two different images")]
    TwoFaced(String),
    /// Nothing for this kind of machine.
    #[error("it has nothing for {wanted}, only for {found}")]
    Platform {
        /// What this machine runs.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// Indexes within indexes, deeper than anybody needs.
    #[error("its indexes are nested more than {0} deep")]
    Nested(usize),
    /// It holds no image at all.
    #[error("it holds no image")]
    Empty,
    /// Several images, and none was chosen.
    #[error("it holds several images, so one must be named after a colon: {0}")]
    Several(String),
    /// The image that was chosen is not there.
    #[error("it holds no image named \"{name}\", but {found}")]
    NoSuchName {
        /// As asked for.
        name: String,
        /// What there is.
        found: String,
    },
    /// Manifest and config count layers differently.
    #[error("its manifest has {layers} layers, its config {diff_ids} diff_ids")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// More layers than the cap.
    #[error("it has {count} layers, more than {limit}")]
    ManyLayers {
        /// How many.
        count: usize,
        /// The cap.
        limit: usize,
    },
    /// A root file system that is not made of layers.
    #[error("its root file system is of the type \"{0}\", not \"layers\"")]
    RootFs(String),
}
