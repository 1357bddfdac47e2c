//! Devices of a microVM that runs: they join it, and what is behind them is exchanged. The agent looks for one when it is
//! told to use it, so that nobody waits for it before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_api::client::{Client, ClientError, ClientResponse};
use koya_api::config::{Drive, NetworkInterface, VmConfig};
use koya_api::http::Method;
use koya_api::json::JsonError;
use serde_json::{Value, json};

use super::config::{card, drive};
use super::{API, Disk};
use crate::network::takeover::Card;
use crate::sockets;

/// How long the VMM may take for one of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running microVM does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The folder of the microVM, or a file in it.
    #[error("cannot use the microVM's folder")]
    Folder(#[source] io::Error),
    /// The VMM cannot be asked.
    #[error("cannot reach the VMM")]
    Api(#[from] ClientError),
    /// One kernel with two disks of one device would have two caches of it.
    #[error("{0:?} is a disk of the microVM already: another container of it has the device")]
    Taken(PathBuf),
    /// A device of the host cannot be looked at.
    #[error("cannot open {path:?}")]
    Device {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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

    /// Where its files are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the VMM has.
    pub(super) fn config(&self) -> Result<VmConfig, DeviceError> {
        let at = "/vm/config";
        let answer = self.request(Method::Get, at, None, Path::new(at))?;
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
            let mac = |known: &NetworkInterface| known.guest_mac.map(|mac| mac.bytes());
            cards.any(|known| known.host_dev_name == card.tap && mac(known) == Some(card.mac.bytes()))
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
        self.request(method, at, Some(&body.to_string()), what).map(drop)
    }

    fn request(
        &self,
        method: Method,
        at: &str,
        body: Option<&str>,
        what: &Path,
    ) -> Result<ClientResponse, DeviceError> {
        let (_open, socket) = sockets::address(&self.folder.join(API)).map_err(DeviceError::Folder)?;
        let answer = Client::connect(&socket, PATIENCE)?.request(method, at, body)?;
        match answer.is_success() {
            true => Ok(answer),
            false => Err(DeviceError::Refused {
                what: format!("{what:?}"),
                message: answer
                    .fault_message()
                    .unwrap_or_else(|| format!("status {}", answer.status)),
            }),
        }
    }
}
