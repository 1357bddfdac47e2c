//! Finds out what a file or folder is, and reads what describes its images.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Members, decompress, file_is_compressed};
use super::blobs::{Blob, Blobs, open_file};
use super::{ArchiveError, Source, docker, layout};
use crate::{Digest, ImageError, Limits, Reference};

/// An image whose documents are read and verified, and whose layers are found.
pub(crate) struct Resolved {
    /// Digest of the config, which names all layers by their contents.
    pub id: Digest,
    pub config_bytes: Vec<u8>,
    /// The manifest and the indexes that led to it, innermost first.
    pub manifest: Vec<(Digest, Vec<u8>)>,
    pub names: Vec<Reference>,
    /// Lowest first.
    pub layers: Vec<LayerSource>,
}

/// A layer, not yet read.
pub(crate) struct LayerSource {
    pub name: String,
    /// Of the bytes as stored, if the source says.
    pub digest: Option<Digest>,
    /// Of the decompressed bytes.
    pub diff_id: Digest,
    pub blob: Blob,
}

/// What a source turned out to be.
pub(crate) enum Opened {
    Images(Vec<Resolved>),
    /// A root file system in a tar.
    Tar(Blob),
    /// A root file system as it lies on the host.
    Folder(PathBuf),
}

/// Opens a file or folder. `scratch` makes an empty file that nobody else sees, for archives that are
/// compressed as a whole.
pub(crate) fn open(
    source: &Source,
    limits: &Limits,
    scratch: &mut dyn FnMut() -> io::Result<File>,
) -> Result<Opened, ImageError> {
    let (path, kind, name) = match source {
        Source::Reference(name) => return Err(ImageError::NotFound(name.familiar())),
        Source::Path(path) => (path, None, None),
        Source::OciLayout { path, name } | Source::OciArchive { path, name } => {
            (path, Some(Form::Oci), name.as_deref())
        }
        Source::DockerArchive { path, name } => (path, Some(Form::Docker), name.as_deref()),
    };
    let archive = |source| ImageError::Archive {
        path: path.clone(),
        source,
    };
    let found = std::fs::metadata(path).map_err(|source| ImageError::Open {
        path: path.clone(),
        source,
    })?;
    if found.is_dir() {
        return folder(path, kind, name, limits);
    }
    if !found.is_file() {
        return Err(archive(ArchiveError::Kind));
    }
    let mut file = open_file(path).map_err(|source| ImageError::Open {
        path: path.clone(),
        source,
    })?;
    let original = file.try_clone().map_err(|error| archive(error.into()))?;
    if file_is_compressed(&file).map_err(|error| archive(error.into()))? {
        let plain = scratch().map_err(|error| archive(error.into()))?;
        decompress(&file, &plain, limits).map_err(archive)?;
        file = plain;
    }
    let members = Members::scan(Arc::new(file)).map_err(archive)?;
    let Some(blobs) = members.map(Blobs::Archive) else {
        return match kind {
            None => whole(original).map_err(archive),
            Some(_) => Err(archive(ArchiveError::Members(1 << 16))),
        };
    };
    match tar(path, &blobs, kind, name, limits)? {
        Some(images) => Ok(Opened::Images(images)),
        None => whole(original).map_err(archive),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Oci,
    Docker,
}

fn whole(file: File) -> Result<Opened, ArchiveError> {
    let size = file.metadata()?.len();
    Ok(Opened::Tar(Blob {
        file: Arc::new(file),
        at: 0,
        size,
    }))
}

fn folder(
    path: &Path,
    kind: Option<Form>,
    name: Option<&str>,
    limits: &Limits,
) -> Result<Opened, ImageError> {
    let is_layout = path.join("index.json").is_file() && path.join("oci-layout").is_file();
    match kind {
        None if !is_layout => Ok(Opened::Folder(path.to_owned())),
        Some(Form::Docker) => Err(ImageError::Archive {
            path: path.to_owned(),
            source: ArchiveError::NoManifest,
        }),
        _ if !path.join("index.json").is_file() => Err(ImageError::Archive {
            path: path.to_owned(),
            source: ArchiveError::NoIndex,
        }),
        _ => {
            let images = layout::images(&Blobs::Folder(path.to_owned()), name, limits);
            let origin = || path.display().to_string();
            Ok(Opened::Images(images.map_err(|source| ImageError::Manifest {
                origin: origin(),
                source,
            })?))
        }
    }
}

/// The images of a tar, or `None` if it is a root file system.
fn tar(
    path: &Path,
    blobs: &Blobs,
    kind: Option<Form>,
    name: Option<&str>,
    limits: &Limits,
) -> Result<Option<Vec<Resolved>>, ImageError> {
    let has = |name: &str| matches!(blobs.find(name), Ok(Some(_)));
    let manifest = |source| ImageError::Manifest {
        origin: path.display().to_string(),
        source,
    };
    let archive = |source| ImageError::Archive {
        path: path.to_owned(),
        source,
    };
    // Newer archives of docker are both: the part that says more about names is its own.
    let is_docker = kind != Some(Form::Oci) && has("manifest.json");
    if is_docker {
        match docker::manifest(blobs, limits) {
            Ok(Some(items)) => {
                return docker::images(blobs, &items, name, limits)
                    .map(Some)
                    .map_err(manifest);
            }
            // A file of this name in a root file system means nothing.
            _ if kind.is_none() && !has("oci-layout") => return Ok(None),
            Err(error) => return Err(manifest(error)),
            Ok(None) => {}
        }
    }
    let is_oci = kind != Some(Form::Docker) && has("index.json") && (has("oci-layout") || kind.is_some());
    match kind {
        _ if is_oci => layout::images(blobs, name, limits).map(Some).map_err(manifest),
        None => Ok(None),
        Some(Form::Oci) => Err(archive(ArchiveError::NoIndex)),
        Some(Form::Docker) => Err(archive(ArchiveError::NoManifest)),
    }
}
