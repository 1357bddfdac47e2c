//! The places that a microVM has for containers, each with a disk for its image once there has been one.
//!
//! The agent finds a container's image by the serial of its place. A disk whose container has left has an empty file behind
//! it, until the next one's image is.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::output::lock;
use super::room::{SCRATCH, image_serial};
use crate::sandbox::{DeviceError, Devices, Disk};

/// The file behind a disk without image: one sector.
const EMPTY: &str = "empty";
const SECTOR: u64 = 512;

/// A place cannot be had, or not furnished.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotError {
    /// All are taken.
    #[error(
        "the microVM holds {0} containers already, which is as many as it was made for; make it with more --rooms"
    )]
    Full(usize),
    /// The disk.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The places of a microVM.
pub(super) struct Slots {
    folder: PathBuf,
    places: Mutex<Vec<Place>>,
}

#[derive(Clone, Default)]
struct Place {
    /// Whether its disk has joined the microVM.
    disk: bool,
    /// Whether somebody is there.
    taken: bool,
}

impl Slots {
    /// `count` places of the microVM in `folder`; the first one is taken.
    pub fn new(folder: &Path, count: usize) -> Self {
        let mut places = vec![Place::default(); count.max(1)];
        if let Some(first) = places.first_mut() {
            (first.disk, first.taken) = (true, true);
        }
        Self {
            folder: folder.to_owned(),
            places: Mutex::new(places),
        }
    }

    /// The disks that the microVM begins with: the first container's image, and what all write to.
    pub fn disks(&self, first: &Path, scratch: PathBuf) -> io::Result<Vec<Disk>> {
        File::create(self.empty())?.set_len(SECTOR)?;
        let scratch = Disk {
            serial: SCRATCH.to_owned(),
            path: scratch,
            read_only: false,
        };
        Ok(vec![image(0, first), scratch])
    }

    /// A free place, with an image put in.
    pub fn take(&self, path: &Path) -> Result<usize, SlotError> {
        let mut places = lock(&self.places);
        let count = places.len();
        let free = places.iter_mut().enumerate().find(|(_, place)| !place.taken);
        let (slot, place) = free.ok_or(SlotError::Full(count))?;
        let devices = Devices::of(&self.folder);
        match place.disk {
            true => devices.exchange_disk(&image_serial(slot), path)?,
            false => devices.add_disk(&image(slot, path))?,
        }
        (place.disk, place.taken) = (true, true);
        Ok(slot)
    }

    /// Gives a place up. A disk whose image cannot be taken out keeps it until another one is put in.
    pub fn free(&self, slot: usize) {
        let _ = Devices::of(&self.folder).exchange_disk(&image_serial(slot), &self.empty());
        if let Some(place) = lock(&self.places).get_mut(slot) {
            place.taken = false;
        }
    }

    fn empty(&self) -> PathBuf {
        self.folder.join(EMPTY)
    }
}

/// The disk of the container in a slot.
fn image(slot: usize, path: &Path) -> Disk {
    Disk {
        serial: image_serial(slot),
        path: path.to_owned(),
        read_only: true,
    }
}
