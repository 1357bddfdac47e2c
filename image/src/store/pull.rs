//! Pulling: from a registry to an image in the store.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use oci_spec::image::{Descriptor, ImageManifest};

use super::cache::Fault;
use super::{Image, Store, file};
use crate::progress::{Event, Progress};
use crate::registry::{Blob, Client, Document, Report};
use crate::source::layout::{self, NESTED_MAX, Step};
use crate::source::{Resolved, document};
use crate::{Digest, ImageError, ManifestError, PullOptions, Reference, RegistryError};

/// Layers that are downloaded at a time, as docker does.
const AT_A_TIME: usize = 3;
/// Time between two reports of progress.
const TICK: Duration = Duration::from_millis(100);

/// What leads from a name to layers.
struct Documents {
    top: Descriptor,
    manifest: Box<ImageManifest>,
    /// Manifest and indexes, innermost first.
    all: Vec<(Digest, Vec<u8>)>,
}

impl Store {
    /// Pulls an image from its registry, whether there is one of its name already or not; layers that are here
    /// are not downloaded again, and an image that is here is only named.
    ///
    /// Pulls of one name at once do the work once. A pull that is killed or cut leaves nothing that anybody would
    /// find, but parts of layers, from which the next pull goes on.
    ///
    /// # Errors
    /// [`ImageError::Pull`] with what the registry did or lacks; the others as [`Store::load`].
    pub fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let id = {
            let _use = self.use_lock()?;
            let work = Digest::of(format!("pull {reference}").as_bytes());
            let _work = self.work_lock(&work, &mut || progress.event(Event::Waiting))?;
            self.temp.sweep().map_err(file(&self.root, "removing rubbish"))?;
            self.pull_alone(reference, options, progress)?
        };
        self.trim_cache()?;
        self.image(&id)
    }

    fn pull_alone(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &mut dyn Progress,
    ) -> Result<Digest, ImageError> {
        let pull = |source| ImageError::Pull {
            image: reference.familiar(),
            source: Box::new(source),
        };
        let origin = reference.familiar();
        let manifest = |source| ImageError::Manifest {
            origin: origin.clone(),
            source,
        };
        let client = Client::new(reference, options).map_err(pull)?;
        let documents = watched(progress, |report| self.documents(&client, reference, report))?;
        let id = document::digest(documents.manifest.config()).map_err(manifest)?;
        if let Some(record) = self.present(&id)? {
            progress.event(Event::Present);
            let path = self.blob_path(&id);
            let image = Resolved {
                id,
                config_bytes: std::fs::read(&path).map_err(file(&path, "reading"))?,
                manifest: documents.all,
                names: vec![reference.clone()],
                layers: Vec::new(),
            };
            let parts = (record.layers.clone(), record.disk, record.size);
            self.complete(&image, parts, Some(record), &origin, &mut crate::Quiet)?;
            self.forget(image.manifest.iter().map(|(digest, _)| *digest));
            return Ok(id);
        }
        let layers = blobs(&documents.manifest, &self.limits).map_err(manifest)?;
        self.check(&layers).map_err(pull)?;
        watched(progress, |report| {
            let bytes = client
                .small_blob(&id, self.limits.document_bytes, report)
                .map_err(pull)?;
            self.write(&self.cache_path(&id), &bytes)
        })?;
        let fetched = self.layers(&client, &layers, progress, &pull);
        if fetched.as_ref().is_err_and(is_full) {
            self.give_up(&layers);
        }
        fetched?;
        let resolved = layout::image_of(&self.cache_folder(), &documents.top, &self.limits);
        let mut image = resolved.map_err(manifest)?;
        image.names = vec![reference.clone()];
        let loaded = self.load_image(&image, &origin, progress);
        let is_bad = matches!(&loaded, Err(ImageError::Layer { .. } | ImageError::Tar { .. }));
        self.forget(documents.all.iter().map(|(digest, _)| *digest).chain([id]));
        if is_bad || loaded.as_ref().is_err_and(is_full) {
            self.give_up(&layers);
        }
        Ok(loaded?.id)
    }

    /// Follows a name to the manifest for this machine.
    fn documents(
        &self,
        client: &Client<'_>,
        reference: &Reference,
        report: &Report<'_>,
    ) -> Result<Documents, ImageError> {
        let pull = |source| ImageError::Pull {
            image: reference.familiar(),
            source: Box::new(source),
        };
        let fault = |source| ImageError::Manifest {
            origin: reference.familiar(),
            source,
        };
        let limit = self.limits.document_bytes;
        let pinned = reference.digest();
        let wanted = pinned
            .map(Digest::to_string)
            .or_else(|| reference.tag().map(str::to_owned));
        let wanted = wanted.unwrap_or_else(|| "latest".to_owned());
        let Document {
            media_type,
            mut bytes,
        } = client.manifest(&wanted, limit, report).map_err(pull)?;
        let mut digest = Digest::of(&bytes);
        if let Some(pinned) = pinned {
            client.verify(pinned, &digest).map_err(pull)?;
        }
        let media_type = layout::media_type(&bytes, media_type.as_deref());
        let top = descriptor(media_type, &bytes, &digest).map_err(fault)?;
        let mut current = top.clone();
        let mut all = Vec::new();
        for _ in 0..NESTED_MAX {
            self.write(&self.cache_path(&digest), &bytes)?;
            let step = layout::step(current.media_type(), &digest, &bytes).map_err(fault)?;
            all.insert(0, (digest, bytes));
            match step {
                Step::Manifest(manifest) => return Ok(Documents { top, manifest, all }),
                Step::Inner(inner) => {
                    digest = document::digest(&inner).map_err(fault)?;
                    bytes = client
                        .manifest(&digest.to_string(), limit, report)
                        .map_err(pull)?
                        .bytes;
                    client.verify(&digest, &Digest::of(&bytes)).map_err(pull)?;
                    current = *inner;
                }
            }
        }
        Err(fault(ManifestError::Nested(NESTED_MAX)))
    }

    fn check(&self, layers: &[Blob]) -> Result<(), RegistryError> {
        let limit = self.limits.unpacked_bytes;
        let size = layers
            .iter()
            .fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        if size > limit {
            return Err(RegistryError::Total { size, limit });
        }
        let missing = layers
            .iter()
            .map(|blob| blob.size.saturating_sub(self.cached(&blob.digest)));
        self.check_space(missing.sum())
    }

    /// Downloads the layers that are not here.
    fn layers(
        &self,
        client: &Client<'_>,
        layers: &[Blob],
        progress: &mut dyn Progress,
        pull: &dyn Fn(RegistryError) -> ImageError,
    ) -> Result<(), ImageError> {
        progress.event(Event::Downloading {
            layers: layers.len(),
            total: layers.iter().map(|blob| blob.size).sum(),
        });
        let next = AtomicUsize::new(0);
        let work = |report: &Report<'_>| -> Result<(), Fault> {
            while let Some(blob) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                report.go_on().map_err(Fault::Registry)?;
                self.fetch(client, *blob, report)?;
            }
            Ok(())
        };
        let threads = layers.len().min(AT_A_TIME);
        let faults = in_threads(threads, progress, &work)
            .into_iter()
            .filter_map(Result::err);
        // What broke off the others is the one to tell.
        let is_cause = |fault: &Fault| !matches!(fault, Fault::Registry(RegistryError::BrokenOff));
        match faults.max_by_key(is_cause) {
            None => Ok(()),
            Some(Fault::Registry(error)) => Err(pull(error)),
            Some(Fault::Image(error)) => Err(error),
        }
    }
}

/// Whether it was the file system that had no more room: what was pulled so far is then better gone than kept.
fn is_full(error: &ImageError) -> bool {
    if let ImageError::Pull { source, .. } = error {
        return matches!(**source, RegistryError::NoSpace { .. });
    }
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// What is to be downloaded, each once.
fn blobs(manifest: &ImageManifest, limits: &crate::Limits) -> Result<Vec<Blob>, ManifestError> {
    let count = manifest.layers().len();
    if count > limits.layers {
        let limit = limits.layers;
        return Err(ManifestError::ManyLayers { count, limit });
    }
    let mut sizes = BTreeMap::new();
    let mut blobs = Vec::new();
    for layer in manifest.layers() {
        let (digest, size) = (document::digest(layer)?, layer.size());
        match sizes.insert(digest, size) {
            None => blobs.push(Blob { digest, size }),
            Some(known) if known == size => {}
            Some(known) => {
                return Err(ManifestError::Size {
                    what: digest.to_string(),
                    expected: size,
                    actual: known,
                });
            }
        }
    }
    Ok(blobs)
}

fn descriptor(
    media_type: oci_spec::image::MediaType,
    bytes: &[u8],
    digest: &Digest,
) -> Result<Descriptor, ManifestError> {
    let text = digest.to_string();
    let parsed = text.parse::<oci_spec::image::Digest>();
    let digest = parsed.map_err(|_| ManifestError::BadDigest(crate::DigestError::Form(text)))?;
    Ok(Descriptor::new(media_type, bytes.len() as u64, digest))
}

/// Does something that may have to be repeated, and tells of it.
fn watched<T: Send>(
    progress: &mut dyn Progress,
    work: impl Fn(&Report<'_>) -> Result<T, ImageError> + Sync,
) -> Result<T, ImageError> {
    let mut quieter = |event: Event<'_>| {
        if matches!(event, Event::Retry { .. }) {
            progress.event(event);
        }
    };
    let broken_off = || ImageError::Pull {
        image: String::new(),
        source: Box::new(RegistryError::BrokenOff),
    };
    in_threads(1, &mut quieter, &work)
        .pop()
        .unwrap_or_else(|| Err(broken_off()))
}

/// Runs `work` in some threads, and reports from this one what they do.
fn in_threads<T: Send, E: Send>(
    threads: usize,
    progress: &mut dyn Progress,
    work: &(dyn Fn(&Report<'_>) -> Result<T, E> + Sync),
) -> Vec<Result<T, E>> {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sender, events) = mpsc::channel::<(Duration, String)>();
    thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..threads {
            let report = Report {
                done: &done,
                stop: &stop,
                retries: sender.clone(),
            };
            running.push(scope.spawn(move || {
                let outcome = work(&report);
                if outcome.is_err() {
                    report.stop.store(true, Ordering::Relaxed);
                }
                outcome
            }));
        }
        drop(sender);
        let mut told = 0;
        loop {
            let event = events.recv_timeout(TICK);
            let now = done.load(Ordering::Relaxed);
            if now > told {
                told = now;
                progress.event(Event::Downloaded { done: now });
            }
            match event {
                Ok((pause, reason)) => progress.event(Event::Retry {
                    pause,
                    reason: &reason,
                }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let outcome = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().map(outcome).collect()
    })
}
