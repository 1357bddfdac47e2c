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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// What a VMM is asked that has these drives, and takes no new ones.
    fn asked(name: &str, drives: &'static str, disk: &Disk) -> (Result<(), DeviceError>, Vec<String>) {
        let folder = std::env::temp_dir().join(format!("koya-devices-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let listener = UnixListener::bind(folder.join(API)).unwrap();
        let vmm = thread::spawn(move || {
            let mut asked = Vec::new();
            loop {
                let (mut client, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let length = client.read(&mut request).unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let line = text.lines().next().unwrap_or_default().to_owned();
                if line.is_empty() {
                    return asked;
                }
                let (status, body) = match line.split(' ').next() {
                    Some("PUT") => ("400 Bad Request", r#"{"fault_message":"is there already"}"#),
                    Some("GET") => ("200 OK", drives),
                    _ => ("204 No Content", ""),
                };
                let length = body.len();
                write!(
                    client,
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .unwrap();
                asked.push(line.trim_end_matches(" HTTP/1.1").to_owned());
            }
        });
        let outcome = Devices::of(&folder).add_disk(disk);
        // Nothing more is asked.
        drop(std::os::unix::net::UnixStream::connect(folder.join(API)).unwrap());
        let asked = vmm.join().unwrap();
        fs::remove_dir_all(folder).unwrap();
        (outcome, asked)
    }

    #[test]
    fn a_disk_whose_answer_was_lost_is_taken_for_added_when_it_is_asked_for_again() {
        let drives = r#"{"boot-source":{"kernel_image_path":"k"},"drives":[
            {"drive_id":"image1","is_root_device":false,"is_read_only":true,"path_on_host":"/old"}]}"#;
        let disk = |serial: &str, read_only| Disk {
            serial: serial.to_owned(),
            path: "/new".into(),
            read_only,
        };
        let (added, said) = asked("known", drives, &disk("image1", true));
        added.unwrap();
        assert_eq!(
            said,
            ["PUT /drives/image1", "GET /vm/config", "PATCH /drives/image1"]
        );
        // One of another kind, or none at all, is a refusal.
        for (name, other) in [("kind", disk("image1", false)), ("none", disk("image2", true))] {
            let (refused, said) = asked(name, drives, &other);
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("is there already"), "{error}");
            assert_eq!(said.len(), 2, "{said:?}");
        }
    }
}
