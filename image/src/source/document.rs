//! Reading documents: capped, of the size and digest their descriptors say, and of one meaning only.

use std::io::{self, Read};

use oci_spec::image::{Descriptor, ImageConfiguration};
use serde::de::DeserializeOwned;

use super::ManifestError;
use super::blobs::{Blob, Blobs};
use crate::{Digest, Limits};

/// This machine's platform, in Go's terms.
pub(crate) const OS: &str = "linux";
pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else {
    "arm64"
};

/// Looks a member up that must be there.
pub(super) fn find(blobs: &Blobs, name: &str) -> Result<Blob, ManifestError> {
    let found = blobs.find(name).map_err(|source| ManifestError::Read {
        what: name.to_owned(),
        source,
    })?;
    found.ok_or_else(|| ManifestError::Missing(name.to_owned()))
}

/// Where a layout keeps the blob with a digest.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn read(mut blob: Blob, what: &str, limits: &Limits) -> Result<Vec<u8>, ManifestError> {
    let limit = limits.document_bytes;
    if blob.size > limit {
        return Err(ManifestError::Large {
            what: what.to_owned(),
            limit,
        });
    }
    let expected = blob.size;
    let mut bytes = Vec::new();
    let read = blob.read_to_end(&mut bytes).and_then(|count| {
        if count as u64 == expected {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    });
    read.map_err(|source| ManifestError::Read {
        what: what.to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// Reads what a descriptor describes and verifies it.
pub(super) fn described(
    blobs: &Blobs,
    descriptor: &Descriptor,
    limits: &Limits,
) -> Result<(Digest, Vec<u8>), ManifestError> {
    let expected = digest(descriptor)?;
    let blob = sized(blobs, descriptor, &expected)?;
    let bytes = read(blob, &expected.to_string(), limits)?;
    let actual = Digest::of(&bytes);
    if actual != expected {
        return Err(ManifestError::Digest { expected, actual });
    }
    Ok((expected, bytes))
}

/// Finds what a descriptor describes, of the right size; its digest remains to be verified.
pub(super) fn sized(blobs: &Blobs, descriptor: &Descriptor, digest: &Digest) -> Result<Blob, ManifestError> {
    let blob = find(blobs, &blob_name(digest))?;
    let (expected, actual) = (descriptor.size(), blob.size);
    if expected == actual {
        return Ok(blob);
    }
    Err(ManifestError::Size {
        what: digest.to_string(),
        expected,
        actual,
    })
}

pub(crate) fn digest(descriptor: &Descriptor) -> Result<Digest, ManifestError> {
    Ok(descriptor.digest().to_string().parse()?)
}

pub(super) fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
        what: what.to_owned(),
        source,
    })
}

/// The diff_ids of a config, which must be for this machine and have as many of them as there are layers.
pub(super) fn diff_ids(
    bytes: &[u8],
    what: &str,
    layers: usize,
    limits: &Limits,
) -> Result<Vec<Digest>, ManifestError> {
    let config: ImageConfiguration = json(bytes, what)?;
    let found = format!("{}/{}", config.os(), config.architecture());
    let wanted = format!("{OS}/{ARCHITECTURE}");
    if found != wanted {
        return Err(ManifestError::Platform { wanted, found });
    }
    if config.rootfs().typ() != "layers" {
        return Err(ManifestError::RootFs(
            config.rootfs().typ().chars().take(40).collect(),
        ));
    }
    if layers > limits.layers {
        return Err(ManifestError::ManyLayers {
            count: layers,
            limit: limits.layers,
        });
    }
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| id.parse())
        .collect::<Result<Vec<_>, _>>()?;
    if diff_ids.len() != layers {
        return Err(ManifestError::Layers {
            layers,
            diff_ids: diff_ids.len(),
        });
    }
    Ok(diff_ids)
}
