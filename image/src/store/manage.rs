//! What can be done with images that are there: find, list, name, remove, tidy up.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::lock::Lock;
use super::{Image, Store, StoreError, damaged, file};
use crate::{Digest, ImageConfig, ImageError, Reference};

/// What removing an image did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// The image, if it is gone, too.
    pub deleted: Option<Digest>,
}

/// What tidying up freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Finds an image by its name, by `NAME@sha256:…`, or by the beginning of its id.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`] if several ids begin like that,
    /// [`ImageError::Reference`] if nothing could be called so.
    pub fn find(&self, text: &str) -> Result<Image, ImageError> {
        let parsed = text.parse::<Reference>();
        if let Ok(reference) = &parsed
            && let Some(id) = self.named(reference)?
        {
            return self.image(&id);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.is_empty()
            || !digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return match parsed {
                Ok(reference) => Err(ImageError::NotFound(reference.familiar())),
                Err(source) => Err(ImageError::Reference {
                    text: text.chars().take(300).collect(),
                    source,
                }),
            };
        }
        let mut found = self.ids()?.into_iter().filter(|id| id.hex().starts_with(digits));
        match (found.next(), found.next()) {
            (Some(id), None) => self.image(&id),
            (None, _) => Err(ImageError::NotFound(text.chars().take(300).collect())),
            (Some(_), Some(_)) => Err(ImageError::Ambiguous(digits.to_owned())),
        }
    }

    /// The id a reference stands for.
    fn named(&self, reference: &Reference) -> Result<Option<Digest>, ImageError> {
        let Some(digest) = reference.digest() else {
            return Ok(self.index()?.names.get(reference).copied());
        };
        let mut tagged = self.index()?.names.into_iter().filter(|(name, _)| {
            (name.registry(), name.repository()) == (reference.registry(), reference.repository())
        });
        let fits = |id: &Digest| -> Result<bool, ImageError> {
            Ok(id == digest
                || self
                    .record(id)?
                    .is_some_and(|record| record.digests.contains(digest)))
        };
        tagged
            .find_map(|(_, id)| fits(&id).map(|fits| fits.then_some(id)).transpose())
            .transpose()
    }

    /// The disk of an image, to be opened read-only. It can be linked (`link`) to keep it beyond the image.
    ///
    /// # Errors
    /// [`StoreError::NoDisk`] if somebody removed it.
    pub fn disk(&self, image: &Image) -> Result<PathBuf, ImageError> {
        let path = self.disk_path(&image.record.disk);
        if path.is_file() {
            Ok(path)
        } else {
            Err(StoreError::NoDisk(path).into())
        }
    }

    /// All images, the last loaded first.
    ///
    /// # Errors
    /// [`StoreError`] if the store is damaged.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for id in self.ids()? {
            match self.image(&id) {
                Ok(image) => images.push(image),
                // Removed meanwhile.
                Err(ImageError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        images.sort_by_key(|image| (std::cmp::Reverse(image.loaded()), *image.id()));
        Ok(images)
    }

    /// Gives an image a name, whichever image had it before.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn tag(&self, image: &str, name: &Reference) -> Result<(), ImageError> {
        let _use = self.use_lock()?;
        let image = self.find(image)?;
        self.change_index(|index| index.names.insert(name.clone(), *image.id()))
            .map(drop)
    }

    /// Removes a name, and the image with its last one; or, by its id, an image with all its names. Disks in
    /// use keep working: their space is freed when they are closed.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn remove(&self, text: &str) -> Result<Removed, ImageError> {
        let image = self.find(text)?;
        let wanted = text
            .parse::<Reference>()
            .ok()
            .filter(|name| image.names.contains(name));
        let id = *image.id();
        let (untagged, left) = self.change_index(|index| {
            let goes = |name: &Reference| wanted.as_ref().is_none_or(|wanted| wanted == name);
            let held = |index: &super::Index| -> Vec<Reference> {
                index
                    .names
                    .iter()
                    .filter(|(_, held)| **held == id)
                    .map(|(name, _)| name.clone())
                    .collect()
            };
            let untagged: Vec<_> = held(index).into_iter().filter(goes).collect();
            index.names.retain(|name, _| !untagged.contains(name));
            let left = held(index).len();
            if left == 0 {
                index
                    .sources
                    .retain(|_, seen| seen.images.iter().all(|image| image.id != id));
            }
            (untagged, left)
        })?;
        if left > 0 {
            return Ok(Removed {
                untagged,
                deleted: None,
            });
        }
        let path = self.record_path(&id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file(&path, "removing")(error));
            }
            _ => {}
        }
        // While others load, the rest waits for the next time.
        match self.collect() {
            Ok(_) | Err(ImageError::Store(StoreError::Busy(_))) => Ok(Removed {
                untagged,
                deleted: Some(id),
            }),
            Err(error) => Err(error),
        }
    }

    /// Removes all images without a name.
    ///
    /// # Errors
    /// As [`Store::remove`].
    pub fn prune(&self) -> Result<Vec<Digest>, ImageError> {
        let nameless = self.list()?.into_iter().filter(|image| image.names.is_empty());
        let mut gone = Vec::new();
        for image in nameless {
            gone.extend(self.remove(&image.id().to_string())?.deleted);
        }
        Ok(gone)
    }

    /// Removes blobs and disks that no image needs, and what killed loads left. Parts of layers that could be
    /// continued stay for a day.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while images are being loaded.
    pub fn collect(&self) -> Result<Collected, ImageError> {
        let path = self.root.join("use.lock");
        let lock = Lock::try_exclusive(&path).map_err(file(&path, "locking"))?;
        let _lock = lock.ok_or_else(|| StoreError::Busy(self.root.clone()))?;
        self.temp.sweep().map_err(file(&self.root, "removing rubbish"))?;
        let mut needed = BTreeSet::new();
        for id in self.ids()? {
            let Some(record) = self.record(&id)? else { continue };
            needed.insert(self.disk_path(&record.disk));
            needed.insert(self.blob_path(&id));
            needed.extend(record.digests.iter().map(|digest| self.blob_path(digest)));
            needed.extend(record.stored.iter().map(|digest| self.cache_path(digest)));
        }
        let mut collected = Collected::default();
        for folder in ["blobs/sha256", "cache/blobs/sha256", "disks", "locks"] {
            let folder = self.root.join(folder);
            for entry in fs::read_dir(&folder).map_err(file(&folder, "listing"))? {
                let entry = entry.map_err(file(&folder, "listing"))?;
                let path = entry.path();
                if needed.contains(&path) || super::cache::may_be_continued(&path) {
                    continue;
                }
                let bytes = entry.metadata().map_or(0, |found| found.len());
                fs::remove_file(&path).map_err(file(&path, "removing"))?;
                collected.files = collected.files.saturating_add(1);
                collected.bytes = collected.bytes.saturating_add(bytes);
            }
        }
        Ok(collected)
    }

    pub(super) fn ids(&self) -> Result<Vec<Digest>, ImageError> {
        let folder = self.root.join("images");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&folder).map_err(file(&folder, "listing"))? {
            let name = entry.map_err(file(&folder, "listing"))?.file_name();
            ids.extend(
                name.to_str()
                    .and_then(|name| Digest::from_hex(name.strip_suffix(".json")?)),
            );
        }
        ids.sort();
        Ok(ids)
    }

    pub(super) fn image(&self, id: &Digest) -> Result<Image, ImageError> {
        let record = self
            .record(id)?
            .ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let path = self.blob_path(id);
        let bytes = fs::read(&path).map_err(file(&path, "reading"))?;
        let actual = Digest::of(&bytes);
        if actual != *id {
            return Err(StoreError::Altered { path, actual }.into());
        }
        let config = ImageConfig::parse(&bytes).map_err(damaged(&path))?;
        let names = self.index()?.names.into_iter().filter(|(_, named)| named == id);
        Ok(Image {
            record,
            names: names.map(|(name, _)| name).collect(),
            config,
            config_json: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }
}
