//! Devices of a microVM that runs: they join it, and what is behind them is exchanged. The agent looks for one when it is
//! told to use it, so that nobody waits for it before.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_api::client::{Client, ClientError, ClientResponse};
use koya_api::config::{Drive, VmConfig};
use koya_api::http::Method;
use koya_api::json::JsonError;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::config::{card, drive};
use super::{API, Disk};
use crate::network::takeover::Card;
use crate::sockets;

/// How long the VMM may take for one of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the serials of disks begin that are lent.
const LENT: &str = "lent";
/// The file behind those that nobody has, in the microVM's folder: one sector.
const IDLE: &str = "idle";
const SECTOR: u64 = 512;

/// A running microVM does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The VMM's socket has no address.
    #[error("cannot open the VMM's folder")]
    Folder(#[source] io::Error),
    /// The VMM cannot be asked.
    #[error("cannot reach the VMM")]
    Api(#[from] ClientError),
    /// The VMM does not say what it has.
    #[error("cannot understand the VMM")]
    Config(#[source] JsonError),
    /// The VMM refused.
    #[error("the VMM does not take {what}: {message}")]
    Refused {
        /// The file of a disk, or a network card.
        what: String,
        /// What it said.
        message: String,
    },
    /// The path cannot be told to the VMM.
    #[error("{0:?} is not UTF-8, which the VMM's requests need")]
    Path(PathBuf),
}

/// The devices of the microVM whose files lie in a folder.
#[derive(Debug, Clone)]
pub struct Devices {
    folder: PathBuf,
}

impl Devices {
    /// Those of the sandbox in this folder.
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Adds a disk. One with this serial that is there already, because an answer was lost, has this file from then on.
    ///
    /// # Errors
    /// [`DeviceError`]; refused when there is no place left.
    pub fn add_disk(&self, disk: &Disk) -> Result<(), DeviceError> {
        let body = drive(disk).ok_or_else(|| DeviceError::Path(disk.path.clone()))?;
        let added = self.ask(
            Method::Put,
            &format!("/drives/{}", disk.serial),
            &body,
            &disk.path,
        );
        match added {
            Err(DeviceError::Refused { .. }) if self.has_disk(disk) => {
                self.exchange_disk(&disk.serial, &disk.path)
            }
            added => added,
        }
    }

    fn has_disk(&self, disk: &Disk) -> bool {
        let same = |known: &Drive| {
            known.drive_id == disk.serial && known.is_read_only.unwrap_or(false) == disk.read_only
        };
        self.config().is_ok_and(|config| config.drives.iter().any(same))
    }

    /// Puts another file behind the disk with this serial.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn exchange_disk(&self, serial: &str, path: &Path) -> Result<(), DeviceError> {
        let text = path.to_str().ok_or_else(|| DeviceError::Path(path.to_owned()))?;
        let body = json!({ "drive_id": serial, "path_on_host": text });
        self.ask(Method::Patch, &format!("/drives/{serial}"), &body, path)
    }

    /// Lends a disk to a container that has come later: one of these that nobody has any more, or a new one. Its serial is
    /// answered; it is the guest's until it is [taken back](Self::take_disk_back).
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn lend_disk(&self, path: &Path, read_only: bool) -> Result<String, DeviceError> {
        let idle = self.idle();
        // Others may be doing the same.
        let folder = File::open(&self.folder).map_err(DeviceError::Folder)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|errno| DeviceError::Folder(errno.into()))?;
        let mut drives = self.config()?.drives;
        drives.retain(|drive| drive.drive_id.starts_with(LENT));
        let free = drives.iter().find(|drive| {
            let same = drive.is_read_only.unwrap_or(false) == read_only;
            same && drive.path_on_host.as_deref() == Some(&idle)
        });
        if let Some(drive) = free {
            self.exchange_disk(&drive.drive_id, path)?;
            return Ok(drive.drive_id.clone());
        }
        let disk = Disk {
            serial: format!("{LENT}{}", drives.len()),
            path: path.to_owned(),
            read_only,
        };
        self.add_disk(&disk)?;
        Ok(disk.serial)
    }

    /// Takes the file away from behind a disk that was lent.
    ///
    /// # Errors
    /// [`DeviceError`]; a microVM that has ended has none any more.
    pub fn take_disk_back(&self, serial: &str) -> Result<(), DeviceError> {
        let idle = self.idle();
        let made = File::create(&idle).and_then(|file| file.set_len(SECTOR));
        made.map_err(DeviceError::Folder)?;
        self.exchange_disk(serial, &idle)
    }

    /// The file behind disks that nobody has.
    fn idle(&self) -> PathBuf {
        self.folder.join(IDLE)
    }

    fn config(&self) -> Result<VmConfig, DeviceError> {
        let answer = self.request(Method::Get, "/vm/config", None)?;
        answer.json().map_err(DeviceError::Config)
    }

    /// Adds a network card, whose tap is in the VMM's namespace. One that is there already, because an answer was lost, is as
    /// wished.
    ///
    /// # Errors
    /// [`DeviceError`]; refused when there is no place left.
    pub fn add_card(&self, new: &Card) -> Result<(), DeviceError> {
        let path = format!("/network-interfaces/{}", new.tap);
        let added = self.ask(Method::Put, &path, &card(new), Path::new(&new.tap));
        match added {
            Err(DeviceError::Refused { .. }) if self.has_card(new) => Ok(()),
            added => added,
        }
    }

    fn has_card(&self, card: &Card) -> bool {
        self.config().is_ok_and(|config| {
            let mut cards = config.network_interfaces.iter();
            cards.any(|known| known.iface_id == card.tap)
        })
    }

    /// Has the VMM write down which memory its guest has written. What is at `path` is whole, or not there.
    pub(super) fn note_working_set(&self, path: &Path) {
        let mut new = path.to_owned().into_os_string();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        let Some(text) = new.to_str() else { return };
        let body = json!({ "working_set_path": text });
        let noted = self.ask(Method::Put, "/snapshot/working-set", &body, path);
        if noted.is_err() || path.exists() || fs::rename(&new, path).is_err() {
            let _ = fs::remove_file(&new);
        }
    }

    fn ask(&self, method: Method, at: &str, body: &Value, what: &Path) -> Result<(), DeviceError> {
        let answer = self.request(method, at, Some(&body.to_string()))?;
        if answer.is_success() {
            return Ok(());
        }
        Err(DeviceError::Refused {
            what: format!("{what:?}"),
            message: answer
                .fault_message()
                .unwrap_or_else(|| format!("status {}", answer.status)),
        })
    }

    fn request(&self, method: Method, at: &str, body: Option<&str>) -> Result<ClientResponse, DeviceError> {
        let (_open, socket) = sockets::address(&self.folder.join(API)).map_err(DeviceError::Folder)?;
        Ok(Client::connect(&socket, PATIENCE)?.request(method, at, body)?)
    }
}
