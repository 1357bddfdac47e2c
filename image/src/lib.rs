//! Container images: found, verified, and merged into one read-only disk image each.
//!
//! ```text
//!  source (layout, archives, tar, folder)     registry (layers come into the store's cache)
//!     │  manifest and config: sizes, digests, platform
//!     ▼
//!  layer stream: decompress, count, hash          (layer)
//!     ▼
//!  tar entries                                    (tar)
//!     ▼
//!  tree of metadata in memory ── contents ──► blocks of the disk image
//!  (tree: whiteouts, links)                       (erofs::data)
//!     ▼
//!  inodes and directories appended: EROFS         (erofs)
//!     ▼
//!  store: fsync, rename, index                    (store)
//! ```
//!
//! What an image holds is never unpacked into the host's file system: names, links, owners and device
//! nodes exist only in memory and in the disk image, so that no name in a layer can lead anywhere else.
//!
//! ```no_run
//! use koya_image::{Quiet, Source, Store};
//! # fn main() -> Result<(), koya_image::ImageError> {
//! let store = Store::open("/var/lib/koya")?;
//! let image = store.load(&Source::parse("debian.tar")?, &mut Quiet)?;
//! println!("{} runs {:?} from {}", image.id(), image.config().command(), store.disk(&image)?.display());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod config;
mod digest;
mod erofs;
mod error;
mod health;
mod layer;
mod limits;
mod progress;
mod reference;
mod registry;
mod source;
mod store;
mod tar;
mod tree;

pub use config::{ExposedPort, ImageConfig, Protocol};
pub use digest::{Digest, DigestError};
pub use erofs::DiskError;
pub use error::ImageError;
pub use health::HealthCheck;
pub use layer::LayerError;
pub use limits::Limits;
pub use progress::{Event, Progress, Quiet};
pub use reference::{Reference, ReferenceError};
pub use registry::{Credentials, CredentialsError, PullOptions, RegistryError};
pub use source::{ArchiveError, ManifestError, Source};
pub use store::{Collected, Image, Removed, Store, StoreError};
pub use tar::TarError;
pub use tree::TreeError;
