//! Loading: from a source to images in the store.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;

use super::build::{Build, Input};
use super::record::{Record, Seen, SeenImage};
use super::{Image, Store, file, stamp};
use crate::erofs::{self, DataWriter};
use crate::progress::{Event, Progress};
use crate::source::folder::Walk;
use crate::source::{self, Blob, Opened, Resolved};
use crate::{Digest, ImageError, ManifestError, Source};

/// Changes whenever the same layers would give another disk than before.
const DISK_FORMAT: &str = "koya disk 1";

/// What a disk is made of.
#[derive(Clone, Copy)]
enum Kind {
    /// OCI layers, whose `.wh.` files delete.
    Layers,
    /// A root file system in one tar.
    Tar,
    Folder,
}

impl Store {
    /// Loads the image a source holds, unless it is here already.
    ///
    /// Several loads of one image at once do the work once. A load that is killed leaves nothing that anybody
    /// would find, and the next load removes its rubbish.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] for a name the store does not have; [`ManifestError::Several`] if the source
    /// holds several images and does not say which; whatever is wrong with the source or the store.
    pub fn load(&self, source: &Source, progress: &mut dyn Progress) -> Result<Image, ImageError> {
        if let Source::Reference(name) = source {
            let image = self.find(&name.to_string())?;
            progress.event(Event::Present);
            return Ok(image);
        }
        let mut images = self.load_some(source, progress, true)?;
        let empty = || ImageError::Manifest {
            origin: source.to_string(),
            source: ManifestError::Empty,
        };
        images.pop().ok_or_else(empty)
    }

    /// Loads all images a file or folder holds.
    ///
    /// # Errors
    /// As [`Store::load`]; images before the first one that fails stay loaded.
    pub fn load_all(&self, source: &Source, progress: &mut dyn Progress) -> Result<Vec<Image>, ImageError> {
        self.load_some(source, progress, false)
    }

    fn load_some(
        &self,
        source: &Source,
        progress: &mut dyn Progress,
        one: bool,
    ) -> Result<Vec<Image>, ImageError> {
        let _use = self.use_lock()?;
        let Some((key, stamp)) = stamp::of(source)? else {
            return Ok(vec![self.load(source, progress)?]);
        };
        if let Some(images) = self.seen(&key, &stamp, one)? {
            progress.event(Event::Present);
            return Ok(images);
        }
        let work = Digest::of(format!("source {key}").as_bytes());
        let _work = self.work_lock(&work, &mut || progress.event(Event::Waiting))?;
        if let Some(images) = self.seen(&key, &stamp, one)? {
            progress.event(Event::Present);
            return Ok(images);
        }
        self.temp.sweep().map_err(file(&self.root, "removing rubbish"))?;
        let opened = source::open(source, &self.limits, &mut || self.temp.scratch())?;
        let loaded = match opened {
            Opened::Images(images) if one && images.len() > 1 => {
                let several = ManifestError::Several(known_names(&images));
                return Err(ImageError::Manifest {
                    origin: source.to_string(),
                    source: several,
                });
            }
            Opened::Images(images) => {
                let origin = source.to_string();
                images
                    .iter()
                    .map(|image| self.load_image(image, &origin, progress))
                    .collect::<Result<_, _>>()?
            }
            Opened::Tar(blob) => vec![self.load_tar(blob, source, progress)?],
            Opened::Folder(path) => vec![self.load_folder(Walk::new(&path)?, source, progress)?],
        };
        // If it changed while it was read, the next load must not take this one for it.
        if stamp::of(source)?.is_some_and(|(_, after)| after == stamp) {
            let seen = Seen {
                stamp,
                images: loaded.clone(),
            };
            self.change_index(|index| index.sources.insert(key, seen))?;
        }
        loaded.iter().map(|seen| self.image(&seen.id)).collect()
    }

    /// The images of a source that has not changed since it was loaded, if they are all still here.
    fn seen(&self, key: &str, stamp: &Digest, one: bool) -> Result<Option<Vec<Image>>, ImageError> {
        let index = self.index()?;
        let Some(seen) = index.sources.get(key).filter(|seen| seen.stamp == *stamp) else {
            return Ok(None);
        };
        if one && seen.images.len() > 1 {
            return Ok(None);
        }
        for image in &seen.images {
            if self.present(&image.id)?.is_none() {
                return Ok(None);
            }
        }
        seen.images.iter().try_for_each(|image| self.add_names(image))?;
        seen.images
            .iter()
            .map(|image| self.image(&image.id))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The record of an image that is here with its disk.
    pub(super) fn present(&self, id: &Digest) -> Result<Option<Record>, ImageError> {
        let record = self.record(id)?;
        Ok(record.filter(|record| self.disk_path(&record.disk).is_file() && self.blob_path(id).is_file()))
    }

    fn add_names(&self, image: &SeenImage) -> Result<(), ImageError> {
        self.change_index(|index| {
            for name in &image.names {
                index.names.insert(name.clone(), image.id);
            }
        })
    }

    pub(super) fn load_image(
        &self,
        image: &Resolved,
        origin: &str,
        progress: &mut dyn Progress,
    ) -> Result<SeenImage, ImageError> {
        let layers: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
        let key = disk_key(Kind::Layers, &layers);
        let _work = self.work_lock(&key, &mut || progress.event(Event::Waiting))?;
        let known = self.present(&image.id)?;
        let size = match &known {
            Some(record) => {
                progress.event(Event::Present);
                record.size
            }
            None => {
                let inputs = image.layers.iter().map(|layer| Input {
                    name: layer.name.clone(),
                    blob: layer.blob.clone(),
                    digest: layer.digest,
                    diff_id: Some(layer.diff_id),
                    whiteouts: true,
                });
                let inputs: Vec<_> = inputs.collect();
                let (_, size) = self.make_disk(progress, |build| {
                    let sums = build.layers(&inputs)?;
                    Ok((key, sums.iter().map(|sums| sums.unpacked).sum()))
                })?;
                size
            }
        };
        self.complete(image, (layers, key, size), known, origin, progress)
    }

    /// Makes an image visible whose disk is there, with its documents and names.
    pub(super) fn complete(
        &self,
        image: &Resolved,
        (layers, disk, size): (Vec<Digest>, Digest, u64),
        known: Option<Record>,
        origin: &str,
        progress: &mut dyn Progress,
    ) -> Result<SeenImage, ImageError> {
        let mut digests: Vec<_> = image.manifest.iter().map(|(digest, _)| *digest).collect();
        for (digest, bytes) in &image.manifest {
            self.write(&self.blob_path(digest), bytes)?;
        }
        let mut stored: Vec<_> = image.layers.iter().filter_map(|layer| layer.digest).collect();
        if let Some(known) = known {
            digests.extend(known.digests);
            stored.extend(known.stored);
        }
        for list in [&mut digests, &mut stored] {
            list.sort();
            list.dedup();
        }
        let id = image.id;
        let record = Record {
            id,
            digests,
            layers,
            stored,
            disk,
            size,
            loaded: now(),
            origin: origin.to_owned(),
        };
        self.publish(&record, &image.config_bytes, progress)?;
        let seen = SeenImage {
            id,
            names: image.names.clone(),
        };
        self.add_names(&seen)?;
        Ok(seen)
    }

    fn load_tar(
        &self,
        blob: Blob,
        source: &Source,
        progress: &mut dyn Progress,
    ) -> Result<SeenImage, ImageError> {
        let name = source.to_string();
        let input = Input {
            name,
            blob,
            digest: None,
            diff_id: None,
            whiteouts: false,
        };
        let mut diff_id = Digest::of(b"");
        let made = self.make_disk(progress, |build| {
            let sums = build.layers(std::slice::from_ref(&input))?;
            diff_id = sums.first().map_or(diff_id, |sums| sums.diff_id);
            Ok((
                disk_key(Kind::Tar, &[diff_id]),
                sums.iter().map(|sums| sums.unpacked).sum(),
            ))
        })?;
        self.publish_bare(diff_id, made, source, progress)
    }

    fn load_folder(
        &self,
        walk: Walk,
        source: &Source,
        progress: &mut dyn Progress,
    ) -> Result<SeenImage, ImageError> {
        let mut diff_id = Digest::of(b"");
        let made = self.make_disk(progress, |build| {
            let (digest, size) = build.folder(walk)?;
            diff_id = digest;
            Ok((disk_key(Kind::Folder, &[digest]), size))
        })?;
        self.publish_bare(diff_id, made, source, progress)
    }

    /// Publishes a root file system that came without a config: it gets one that asks for nothing.
    fn publish_bare(
        &self,
        diff_id: Digest,
        (disk, size): (Digest, u64),
        source: &Source,
        progress: &mut dyn Progress,
    ) -> Result<SeenImage, ImageError> {
        let mut config = ImageConfiguration::default();
        config
            .set_architecture(source::ARCHITECTURE.into())
            .set_os(source::OS.into());
        config.rootfs_mut().set_diff_ids(vec![diff_id.to_string()]);
        let path = self.root.join("blobs");
        let bytes = serde_json::to_vec(&config).map_err(super::damaged(&path))?;
        let (id, layers) = (Digest::of(&bytes), vec![diff_id]);
        let origin = source.to_string();
        let record = Record {
            id,
            digests: Vec::new(),
            layers,
            stored: Vec::new(),
            disk,
            size,
            loaded: now(),
            origin,
        };
        self.publish(&record, &bytes, progress)?;
        Ok(SeenImage {
            id,
            names: Vec::new(),
        })
    }

    /// Makes a disk; `fill` says by which key it is to be found, and how much went into it.
    fn make_disk(
        &self,
        progress: &mut dyn Progress,
        fill: impl FnOnce(&mut Build<'_>) -> Result<(Digest, u64), ImageError>,
    ) -> Result<(Digest, u64), ImageError> {
        let fault = file(&self.root, "making a temporary file");
        let mut temp = self.temp.create().map_err(&fault)?;
        let image = temp.file().and_then(|file| file.try_clone()).map_err(&fault)?;
        let data = DataWriter::new(image, self.temp.scratch().map_err(&fault)?, &self.limits);
        let mut build = Build::new(data, &self.limits, progress);
        let (key, size) = fill(&mut build)?;
        build.progress.event(Event::Finishing);
        let uuid = key.bytes().first_chunk().copied().unwrap_or_default();
        let image = erofs::write(build.data, &build.tree, uuid)?;
        // Many machines share it: nobody but root could open it for writing from here on.
        image
            .set_permissions(Permissions::from_mode(0o444))
            .map_err(&fault)?;
        let path = self.disk_path(&key);
        temp.commit(&path).map_err(file(&path, "writing"))?;
        Ok((key, size))
    }

    /// Makes an image visible whose disk is there.
    fn publish(&self, record: &Record, config: &[u8], progress: &mut dyn Progress) -> Result<(), ImageError> {
        self.write(&self.blob_path(&record.id), config)?;
        let path = self.record_path(&record.id);
        let bytes = serde_json::to_vec_pretty(record).map_err(super::damaged(&path))?;
        self.write(&path, &bytes)?;
        progress.event(Event::Done { id: &record.id });
        Ok(())
    }
}

fn disk_key(kind: Kind, layers: &[Digest]) -> Digest {
    let kind = match kind {
        Kind::Layers => "layers",
        Kind::Tar => "tar",
        Kind::Folder => "folder",
    };
    let mut text = format!("{DISK_FORMAT}\n{kind}\n");
    for layer in layers {
        text.push_str(&layer.to_string());
        text.push('\n');
    }
    Digest::of(text.as_bytes())
}

fn known_names(images: &[Resolved]) -> String {
    let names = images.iter().map(|image| match image.names.first() {
        Some(name) => name.familiar(),
        None => format!("{} without a name", image.id),
    });
    names.collect::<Vec<_>>().join(", ").chars().take(400).collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
