//! Archives of `docker save` (Docker image specification v1.2 §combined image JSON + filesystem changeset).

use serde::Deserialize;

use super::blobs::Blobs;
use super::layout::listed;
use super::open::{LayerSource, Resolved};
use super::{ManifestError, document};
use crate::{Digest, Limits, Reference};

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The archive's `manifest.json`; `None` if there is none.
pub(super) fn manifest(blobs: &Blobs, limits: &Limits) -> Result<Option<Vec<Item>>, ManifestError> {
    let found = blobs.find("manifest.json");
    let found = found.map_err(|source| ManifestError::Read {
        what: "manifest.json".into(),
        source,
    })?;
    let Some(blob) = found else { return Ok(None) };
    let bytes = document::read(blob, "manifest.json", limits)?;
    document::json(&bytes, "manifest.json").map(Some)
}

/// All images of an archive, or the one with a name.
pub(super) fn images(
    blobs: &Blobs,
    items: &[Item],
    name: Option<&str>,
    limits: &Limits,
) -> Result<Vec<Resolved>, ManifestError> {
    let wanted = name.map(|name| (name, name.parse::<Reference>().ok()));
    let is_wanted = |item: &&Item| match &wanted {
        None => true,
        Some((name, reference)) => names(item).any(|(text, known)| {
            text == *name || (reference.is_some() && known.as_ref() == reference.as_ref())
        }),
    };
    let images: Vec<_> = items
        .iter()
        .filter(is_wanted)
        .map(|item| image(blobs, item, limits))
        .collect::<Result<_, _>>()?;
    match (images.is_empty(), name) {
        (false, _) => Ok(images),
        (true, None) => Err(ManifestError::Empty),
        (true, Some(name)) => {
            let known = items
                .iter()
                .flat_map(names)
                .map(|(text, _)| text.to_owned())
                .collect();
            Err(ManifestError::NoSuchName {
                name: name.to_owned(),
                found: listed(known),
            })
        }
    }
}

fn names(item: &Item) -> impl Iterator<Item = (&str, Option<Reference>)> {
    let tags = item.repo_tags.iter().flatten();
    tags.map(|tag| (tag.as_str(), tag.parse().ok()))
}

fn image(blobs: &Blobs, item: &Item, limits: &Limits) -> Result<Resolved, ManifestError> {
    let blob = document::find(blobs, &item.config)?;
    let config_bytes = document::read(blob, &item.config, limits)?;
    let id = Digest::of(&config_bytes);
    // The config's file is named by its digest: <hex>.json, or blobs/sha256/<hex>.
    let stem = item
        .config
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json");
    if let Some(expected) = Digest::from_hex(stem).filter(|expected| *expected != id) {
        return Err(ManifestError::Digest { expected, actual: id });
    }
    let files = item.layers.as_deref().unwrap_or_default();
    let diff_ids = document::diff_ids(&config_bytes, &item.config, files.len(), limits)?;
    let mut layers = Vec::new();
    for (file, diff_id) in files.iter().zip(diff_ids) {
        let blob = document::find(blobs, file)?;
        layers.push(LayerSource {
            name: file.chars().take(200).collect(),
            digest: None,
            diff_id,
            blob,
        });
    }
    let names = names(item).filter_map(|(_, name)| name).collect();
    Ok(Resolved {
        id,
        config_bytes,
        manifest: Vec::new(),
        names,
        layers,
    })
}
