//! What registries sent: layers under their digests, and parts of layers.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lock::Lock;
use super::{Store, file};
use crate::registry::{Blob, Client, Download, DownloadFault, RegistryError, Report};
use crate::{Digest, ImageError};

/// Ending of what is not whole yet.
const PARTIAL: &str = "partial";
/// How long a part waits for somebody to continue it.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// Why a layer is not here.
pub(super) enum Fault {
    Registry(RegistryError),
    Image(ImageError),
}

impl Store {
    /// An image layout, so to speak, without an index.
    pub(super) fn cache_folder(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(super) fn cache_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("cache/blobs/sha256").join(digest.hex())
    }

    /// Makes sure that a layer is in the cache. Whoever wants the same one waits.
    pub(super) fn fetch(&self, client: &Client<'_>, blob: Blob, report: &Report<'_>) -> Result<(), Fault> {
        let path = self.cache_path(&blob.digest);
        let work = Digest::of(format!("blob {}", blob.digest).as_bytes());
        let _work = self.work_lock(&work, &mut || {}).map_err(Fault::Image)?;
        if fs::metadata(&path).is_ok_and(|found| found.len() == blob.size) {
            // Youngest now: the last to be given up.
            let now = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            now.map_err(|error| Fault::Image(file(&path, "reading")(error)))?;
            report
                .done
                .fetch_add(blob.size, std::sync::atomic::Ordering::Relaxed);
            return Ok(());
        }
        let part = path.with_extension(PARTIAL);
        match Download::run(client, blob, &part, report) {
            Ok(()) => fs::rename(&part, &path).map_err(|error| Fault::Image(file(&path, "naming")(error))),
            Err(DownloadFault::Registry(error)) => Err(Fault::Registry(error)),
            Err(DownloadFault::File(error)) => {
                let space = error.kind() == io::ErrorKind::StorageFull;
                if space && fs::remove_file(&part).is_ok() {
                    let needed = blob.size;
                    return Err(Fault::Registry(no_space(&self.root, needed)));
                }
                Err(Fault::Image(file(&part, "writing")(error)))
            }
        }
    }

    /// Bytes of a layer that are here.
    pub(super) fn cached(&self, digest: &Digest) -> u64 {
        let path = self.cache_path(digest);
        let length = |path: &Path| fs::metadata(path).map(|found| found.len());
        length(&path)
            .or_else(|_| length(&path.with_extension(PARTIAL)))
            .unwrap_or(0)
    }

    /// Refuses what cannot fit.
    pub(super) fn check_space(&self, needed: u64) -> Result<(), RegistryError> {
        let Ok(found) = rustix::fs::statvfs(&self.root) else {
            return Ok(());
        };
        match needed.checked_sub(found.f_bavail.saturating_mul(found.f_frsize)) {
            Some(missing) if missing > 0 => Err(no_space(&self.root, missing)),
            _ => Ok(()),
        }
    }

    /// Removes what is in the cache under some digests.
    pub(super) fn forget(&self, digests: impl Iterator<Item = Digest>) {
        for digest in digests {
            // If it stays, its digest will tell again.
            let _ = fs::remove_file(self.cache_path(&digest));
        }
    }

    /// Gives layers up, whole or not, that are no good or take room that is needed.
    pub(super) fn give_up(&self, layers: &[Blob]) {
        self.forget(layers.iter().map(|blob| blob.digest));
        for blob in layers {
            let _ = fs::remove_file(self.cache_path(&blob.digest).with_extension(PARTIAL));
        }
    }

    /// Keeps the cache below its cap, if nobody is loading right now: the oldest go first.
    pub(super) fn trim_cache(&self) -> Result<(), ImageError> {
        let path = self.root.join("use.lock");
        let Some(_lock) = Lock::try_exclusive(&path).map_err(file(&path, "locking"))? else {
            return Ok(());
        };
        let folder = self.root.join("cache/blobs/sha256");
        let fault = file(&folder, "listing");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).map_err(&fault)? {
            let entry = entry.map_err(&fault)?;
            let found = entry.metadata().map_err(&fault)?;
            files.push((found.modified().map_err(&fault)?, found.len(), entry.path()));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.limits.cache_bytes {
                break;
            }
            fs::remove_file(&path).map_err(file(&path, "removing"))?;
            total = total.saturating_sub(size);
        }
        Ok(())
    }
}

fn no_space(path: &Path, needed: u64) -> RegistryError {
    RegistryError::NoSpace {
        path: path.to_owned(),
        needed,
    }
}

/// Whether a file is a part of a layer that somebody may still want to continue.
pub(super) fn may_be_continued(path: &Path) -> bool {
    let young = |found: fs::Metadata| {
        let age = found.modified().ok()?.elapsed().unwrap_or_default();
        Some(age < PARTIAL_AGE)
    };
    path.extension() == Some(OsStr::new(PARTIAL)) && fs::metadata(path).ok().and_then(young).unwrap_or(false)
}
