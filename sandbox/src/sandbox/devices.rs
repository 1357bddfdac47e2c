//! Devices of a microVM that runs: they join it, and what is behind them is exchanged. The agent looks for one when it is
//! told to use it, so that nobody waits for it before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_api::client::{Client, ClientError};
use koya_api::http::Method;
use serde_json::{Value, json};

use super::config::{card, drive};
use super::{API, Disk};
use crate::network::takeover::Spare;
use crate::sockets;

/// How long the VMM may take for one of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running microVM does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The VMM's socket has no address.
    #[error("cannot open the VMM's folder")]
    Folder(#[source] io::Error),
    /// The VMM cannot be asked.
    #[error("cannot reach the VMM")]
    Api(#[from] ClientError),
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

    /// Adds a disk.
    ///
    /// # Errors
    /// [`DeviceError`]; refused when there is one with this serial, or no place left.
    pub fn add_disk(&self, disk: &Disk) -> Result<(), DeviceError> {
        let body = drive(disk).ok_or_else(|| DeviceError::Path(disk.path.clone()))?;
        self.ask(
            Method::Put,
            &format!("/drives/{}", disk.serial),
            &body,
            &disk.path,
        )
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

    /// Adds a network card, whose tap is in the VMM's namespace.
    ///
    /// # Errors
    /// [`DeviceError`]; refused when there is one with this tap, or no place left.
    pub fn add_card(&self, spare: &Spare) -> Result<(), DeviceError> {
        let path = format!("/network-interfaces/{}", spare.tap);
        self.ask(Method::Put, &path, &card(spare), Path::new(&spare.tap))
    }

    /// Has the VMM write down which memory its guest has written, for `path` to be whole or not there at all.
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
        let (_open, socket) = sockets::address(&self.folder.join(API)).map_err(DeviceError::Folder)?;
        let mut api = Client::connect(&socket, PATIENCE)?;
        let answer = api.request(method, at, Some(&body.to_string()))?;
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
}
