//! The images of a host: a folder that any number of processes may use at once.
//!
//! ```text
//! index.json            names of images; what files and folders held when last loaded
//! images/<id>.json      one image; written last, so that whatever it needs is there
//! blobs/sha256/<hex>    manifests and configs, as they were
//! disks/<key>.erofs     one read-only disk for each chain of layers
//! cache/blobs/sha256/   what registries sent: layers for the next image that has them, and parts of layers
//! tmp/                  unfinished files, each locked by its writer
//! locks/                one file for each piece of work that is being done
//! lock, index.lock      held for moments: tmp/, index.json
//! use.lock              held shared while loading, exclusively while collecting rubbish
//! ```
//!
//! Layers are not kept but in the cache, which may be emptied at any time: once its disk is made, an image needs
//! them no more.

mod build;
mod cache;
mod image;
mod load;
mod lock;
mod manage;
mod pull;
mod record;
mod stamp;
mod temp;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use image::Image;
pub use manage::{Collected, Removed};

use lock::Lock;
use record::{Index, Record};
use temp::TempFolder;

use crate::{Digest, ImageError, Limits};

/// A folder of images.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
    temp: TempFolder,
}

/// The store's folder is in the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or folder of the store cannot be used.
    #[error("{path}: {act} failed")]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file of the store is not what it should be.
    #[error("{path}: is damaged; remove the image and load it again")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// A blob of the store has other bytes than its name says.
    #[error("{path}: has the digest {actual}; remove the image and load it again")]
    Altered {
        /// Which.
        path: PathBuf,
        /// Of its bytes.
        actual: Digest,
    },
    /// An image's disk is gone.
    #[error("{0}: the disk of the image is missing; load the image again")]
    NoDisk(PathBuf),
    /// Images are being loaded.
    #[error("{0}: images are being loaded right now; try again when that is done")]
    Busy(PathBuf),
}

impl Store {
    /// Opens a store, and makes its folders if they are missing, the outermost for the caller only.
    ///
    /// # Errors
    /// [`StoreError::File`] if that is not possible.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ImageError> {
        Self::with_limits(root, Limits::default())
    }

    /// Opens a store with caps of one's own.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn with_limits(root: impl Into<PathBuf>, limits: Limits) -> Result<Self, ImageError> {
        let root = root.into();
        // Files that only root may read in an image could be read by anybody from its disk.
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(file(&root, "making the folder"))?;
        for folder in [
            "blobs/sha256",
            "cache/blobs/sha256",
            "images",
            "disks",
            "tmp",
            "locks",
        ] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(file(&path, "making the folder"))?;
        }
        let temp = TempFolder::new(root.join("tmp"), root.join("lock"));
        Ok(Self { root, limits, temp })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn record_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    fn disk_path(&self, key: &Digest) -> PathBuf {
        self.root.join("disks").join(format!("{}.erofs", key.hex()))
    }

    fn work_lock(&self, key: &Digest, waiting: &mut dyn FnMut()) -> Result<Lock, ImageError> {
        let path = self.root.join("locks").join(key.hex());
        Lock::of_work(&path, waiting).map_err(file(&path, "locking"))
    }

    fn use_lock(&self) -> Result<Lock, ImageError> {
        let path = self.root.join("use.lock");
        Lock::shared(&path).map_err(file(&path, "locking"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        self.temp.write(path, bytes).map_err(file(path, "writing"))
    }

    fn index(&self) -> Result<Index, ImageError> {
        Ok(self.json(&self.root.join("index.json"))?.unwrap_or_default())
    }

    /// Changes the index; two changes at once come one after the other.
    fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T, ImageError> {
        // Not `lock`: writing takes that one.
        let lock = self.root.join("index.lock");
        let _lock = Lock::exclusive(&lock).map_err(file(&lock, "locking"))?;
        let before = self.index()?;
        let mut index = before.clone();
        let result = change(&mut index);
        if index != before {
            let bytes = serde_json::to_vec_pretty(&index).map_err(damaged(&lock))?;
            self.write(&self.root.join("index.json"), &bytes)?;
        }
        Ok(result)
    }

    fn record(&self, id: &Digest) -> Result<Option<Record>, ImageError> {
        self.json(&self.record_path(id))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, ImageError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file(path, "reading")(error)),
        };
        Ok(Some(serde_json::from_slice(&bytes).map_err(damaged(path))?))
    }
}

fn file(path: &Path, act: &'static str) -> impl Fn(io::Error) -> ImageError {
    move |source| {
        StoreError::File {
            path: path.to_owned(),
            act,
            source,
        }
        .into()
    }
}

fn damaged(path: &Path) -> impl Fn(serde_json::Error) -> ImageError {
    move |source| {
        StoreError::Damaged {
            path: path.to_owned(),
            source,
        }
        .into()
    }
}
