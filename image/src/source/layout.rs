//! OCI image layouts (OCI image specification, image-layout, image-index, manifest).

use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::blobs::Blobs;
use super::open::{LayerSource, Resolved};
use super::{ManifestError, document};
use crate::{Digest, Limits, Reference};

/// Indexes within indexes: `index.json`, an image's index, and one to spare.
pub(crate) const NESTED_MAX: usize = 4;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// All images of a layout that can run here, or the one with a name.
pub(super) fn images(
    blobs: &Blobs,
    name: Option<&str>,
    limits: &Limits,
) -> Result<Vec<Resolved>, ManifestError> {
    let index = document::find(blobs, "index.json")?;
    let bytes = document::read(index, "index.json", limits)?;
    let index: ImageIndex = document::json(&bytes, "index.json")?;
    let mut images: Vec<Resolved> = Vec::new();
    let mut elsewhere = None;
    let mut names = Vec::new();
    for descriptor in index.manifests().iter().take(limits.layers) {
        let is_named = annotations(descriptor).next().is_some();
        names.extend(annotations(descriptor).map(str::to_owned));
        if name.is_some_and(|name| !annotations(descriptor).any(|known| same_name(known, name))) {
            continue;
        }
        match image(blobs, descriptor, limits, 1) {
            Ok(found) => add(&mut images, found),
            // Others of the same index may fit.
            Err(error @ ManifestError::Platform { .. }) if !is_named || name.is_none() => {
                elsewhere = Some(error)
            }
            Err(error) => return Err(error),
        }
    }
    match (images.is_empty(), elsewhere, name) {
        (false, ..) => Ok(images),
        (true, Some(error), _) => Err(error),
        (true, None, Some(name)) => Err(ManifestError::NoSuchName {
            name: name.to_owned(),
            found: listed(names),
        }),
        (true, None, None) => Err(ManifestError::Empty),
    }
}

/// One image may stand in an index several times, once for each name.
fn add(images: &mut Vec<Resolved>, found: Resolved) {
    match images.iter_mut().find(|known| known.manifest == found.manifest) {
        Some(known) => known.names.extend(found.names),
        None => images.push(found),
    }
}

pub(super) fn listed(names: Vec<String>) -> String {
    if names.is_empty() {
        "none with a name".to_owned()
    } else {
        names.join(", ").chars().take(400).collect()
    }
}

/// The image a descriptor leads to, through indexes to the manifest for this machine.
fn image(
    blobs: &Blobs,
    descriptor: &Descriptor,
    limits: &Limits,
    depth: usize,
) -> Result<Resolved, ManifestError> {
    if depth > NESTED_MAX {
        return Err(ManifestError::Nested(NESTED_MAX));
    }
    if !fits(descriptor) {
        return Err(elsewhere([descriptor].into_iter()));
    }
    let (digest, bytes) = document::described(blobs, descriptor, limits)?;
    let mut image = match step(descriptor.media_type(), &digest, &bytes)? {
        Step::Manifest(found) => manifest(blobs, &found, limits)?,
        Step::Inner(chosen) => image(blobs, &chosen, limits, depth.saturating_add(1))?,
    };
    image.manifest.push((digest, bytes));
    image.names.extend(annotations(descriptor).filter_map(full_name));
    image.names.dedup();
    Ok(image)
}

/// Where a document leads.
pub(crate) enum Step {
    Manifest(Box<ImageManifest>),
    /// What an index has for this machine.
    Inner(Box<Descriptor>),
}

/// Reads a manifest or index, which must not be both.
pub(crate) fn step(media_type: &MediaType, digest: &Digest, bytes: &[u8]) -> Result<Step, ManifestError> {
    let what = digest.to_string();
    let members: serde_json::Map<String, serde_json::Value> = document::json(bytes, &what)?;
    if members.contains_key("manifests") && (members.contains_key("layers") || members.contains_key("config"))
    {
        return Err(ManifestError::TwoFaced(what));
    }
    match kind(media_type) {
        Some(Kind::Manifest) => Ok(Step::Manifest(Box::new(document::json(bytes, &what)?))),
        Some(Kind::Index) => {
            let index: ImageIndex = document::json(bytes, &what)?;
            let chosen = index.manifests().iter().find(|descriptor| fits(descriptor));
            let chosen = chosen.ok_or_else(|| elsewhere(index.manifests().iter()))?;
            Ok(Step::Inner(Box::new(chosen.clone())))
        }
        None => Err(ManifestError::MediaType {
            what,
            found: media_type.to_string(),
        }),
    }
}

/// What a document without a descriptor is: as it says itself, or else as it was announced.
pub(crate) fn media_type(bytes: &[u8], announced: Option<&str>) -> MediaType {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
    }
    let said = serde_json::from_slice::<Document>(bytes)
        .ok()
        .and_then(|document| document.media_type);
    let text = said.as_deref().or(announced).unwrap_or_default();
    MediaType::from(text.chars().take(200).collect::<String>().as_str())
}

/// Blobs of a folder `blobs/sha256`, as one image of this machine.
pub(crate) fn image_of(
    folder: &Path,
    descriptor: &Descriptor,
    limits: &Limits,
) -> Result<Resolved, ManifestError> {
    image(&Blobs::Folder(folder.to_owned()), descriptor, limits, 1)
}

enum Kind {
    Manifest,
    Index,
}

fn kind(media_type: &MediaType) -> Option<Kind> {
    match media_type.to_string().as_str() {
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => Some(Kind::Manifest),
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Kind::Index),
        _ => None,
    }
}

fn manifest(blobs: &Blobs, manifest: &ImageManifest, limits: &Limits) -> Result<Resolved, ManifestError> {
    let config_type = manifest.config().media_type().to_string();
    if !matches!(
        config_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        let what = manifest.config().digest().to_string();
        return Err(ManifestError::MediaType {
            what,
            found: config_type,
        });
    }
    let (id, config_bytes) = document::described(blobs, manifest.config(), limits)?;
    let layers = manifest.layers();
    let diff_ids = document::diff_ids(&config_bytes, &id.to_string(), layers.len(), limits)?;
    let mut sources = Vec::new();
    for (descriptor, diff_id) in layers.iter().zip(diff_ids) {
        let digest = document::digest(descriptor)?;
        let media_type = descriptor.media_type().to_string();
        if !is_layer(&media_type) {
            return Err(ManifestError::MediaType {
                what: digest.to_string(),
                found: media_type,
            });
        }
        let blob = document::sized(blobs, descriptor, &digest)?;
        sources.push(LayerSource {
            name: digest.to_string(),
            digest: Some(digest),
            diff_id,
            blob,
        });
    }
    Ok(Resolved {
        id,
        config_bytes,
        manifest: Vec::new(),
        names: Vec::new(),
        layers: sources,
    })
}

/// Layers that are tar archives, plain, gzip or zstd. What the bytes are is seen from the bytes.
fn is_layer(media_type: &str) -> bool {
    let oci = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1."));
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.");
    oci.is_some_and(|form| matches!(form, "tar" | "tar+gzip" | "tar+zstd"))
        || docker.is_some_and(|form| matches!(form, "tar" | "tar.gzip" | "tar.zstd"))
}

/// Whether a descriptor is for this machine, as far as it says. Attestations are for none.
fn fits(descriptor: &Descriptor) -> bool {
    let Some(platform) = descriptor.platform() else {
        return true;
    };
    platform.os().to_string() == document::OS
        && platform.architecture().to_string() == document::ARCHITECTURE
        // amd64/v2 and above need processors that not everybody has; arm64 has the one variant v8.
        && platform.variant().as_deref().is_none_or(|variant| matches!(variant, "" | "v1" | "v8"))
}

fn elsewhere<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> ManifestError {
    let found = descriptors.filter_map(|descriptor| descriptor.platform().as_ref());
    let found = found
        .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
        .collect();
    ManifestError::Platform {
        wanted: format!("{}/{}", document::OS, document::ARCHITECTURE),
        found: listed(found),
    }
}

fn annotations(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    let named = descriptor.annotations().as_ref();
    [CONTAINERD_NAME, REF_NAME]
        .into_iter()
        .filter_map(move |key| named?.get(key))
        .map(String::as_str)
}

/// The name an annotation gives; many are tags only, which name nothing by themselves.
fn full_name(annotation: &str) -> Option<Reference> {
    annotation.contains([':', '/']).then(|| annotation.parse().ok())?
}

fn same_name(known: &str, wanted: &str) -> bool {
    known == wanted
        || matches!((full_name(known), wanted.parse::<Reference>()), (Some(known), Ok(wanted)) if known == wanted)
}
