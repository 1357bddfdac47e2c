//! The places that a microVM has for containers, each with a disk for its image that is there from the boot on.
//!
//! A disk without an image has an empty file behind it, which is exchanged when a container moves in. So the agent finds
//! a container's image by the serial of its slot, and nothing has to be added to a running guest.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use koya_api::client::{Client, ClientError};
use koya_api::http::Method;
use serde_json::json;

use super::output::lock;
use super::room::{SCRATCH, image_serial};
use crate::sandbox::{API, Disk};

/// The file behind a disk without image: one sector.
const EMPTY: &str = "empty";
const SECTOR: u64 = 512;
/// How long the VMM may take to exchange a file.
const PATIENCE: Duration = Duration::from_secs(20);

/// A place cannot be had, or not furnished.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotError {
    /// All are taken.
    #[error(
        "the microVM holds {0} containers already, which is as many as it was made for; make it with more --rooms"
    )]
    Full(usize),
    /// The VMM cannot be asked.
    #[error("cannot reach the VMM")]
    Api(#[from] ClientError),
    /// The VMM refused.
    #[error("the VMM does not take the image {path:?}: {message}")]
    Refused {
        /// The image's file.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The path cannot be told to the VMM.
    #[error("{0:?} is not UTF-8, which the VMM's requests need")]
    Path(PathBuf),
}

/// The places of a microVM.
pub(super) struct Slots {
    folder: PathBuf,
    /// The file behind each disk; `None`: nobody is there.
    images: Mutex<Vec<Option<PathBuf>>>,
}

impl Slots {
    /// `count` places of the microVM in `folder`; the first one is taken, by a container with this image.
    pub fn new(folder: &Path, count: usize, first: &Path) -> Self {
        let mut images = vec![None; count.max(1)];
        if let Some(slot) = images.first_mut() {
            *slot = Some(first.to_owned());
        }
        Self {
            folder: folder.to_owned(),
            images: Mutex::new(images),
        }
    }

    /// The disks that the microVM boots with. Makes the empty file.
    pub fn disks(&self, scratch: PathBuf) -> io::Result<Vec<Disk>> {
        let empty = self.folder.join(EMPTY);
        File::create(&empty)?.set_len(SECTOR)?;
        let images = lock(&self.images);
        let mut disks: Vec<_> = images
            .iter()
            .enumerate()
            .map(|(slot, image)| Disk {
                serial: image_serial(slot),
                path: image.clone().unwrap_or_else(|| empty.clone()),
                read_only: true,
            })
            .collect();
        disks.push(Disk {
            serial: SCRATCH.to_owned(),
            path: scratch,
            read_only: false,
        });
        Ok(disks)
    }

    /// A free place, with an image put in.
    pub fn take(&self, image: &Path) -> Result<usize, SlotError> {
        let mut images = lock(&self.images);
        let count = images.len();
        let free = images.iter_mut().enumerate().find(|(_, image)| image.is_none());
        let (slot, place) = free.ok_or(SlotError::Full(count))?;
        self.exchange(slot, image)?;
        *place = Some(image.to_owned());
        Ok(slot)
    }

    /// Gives a place up. A disk whose image cannot be taken out keeps it until another one is put in.
    pub fn free(&self, slot: usize) {
        let _ = self.exchange(slot, &self.folder.join(EMPTY));
        if let Some(place) = lock(&self.images).get_mut(slot) {
            *place = None;
        }
    }

    fn exchange(&self, slot: usize, path: &Path) -> Result<(), SlotError> {
        let serial = image_serial(slot);
        let text = path.to_str().ok_or_else(|| SlotError::Path(path.to_owned()))?;
        let body = json!({ "drive_id": serial, "path_on_host": text }).to_string();
        let mut api = Client::connect(&self.folder.join(API), PATIENCE)?;
        let answer = api.request(Method::Patch, &format!("/drives/{serial}"), Some(&body))?;
        if answer.is_success() {
            return Ok(());
        }
        Err(SlotError::Refused {
            path: path.to_owned(),
            message: answer
                .fault_message()
                .unwrap_or_else(|| format!("status {}", answer.status)),
        })
    }
}
