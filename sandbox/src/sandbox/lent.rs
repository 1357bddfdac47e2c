//! Disks that a microVM which runs lends to containers that come later.
//!
//! ```text
//!  lent.json, in the microVM's folder   whose each disk is; written before the VMM is asked for it
//!  idle                                 the file behind those that are nobody's: one sector
//! ```
//!
//! So whatever dies in between leaves what it takes to give a disk back, and nobody gives back another one's. A disk stays in the
//! microVM when it has been given back, and is lent again to whoever wants one of the same kind.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Disk;
use super::devices::{DeviceError, Devices};

const LEDGER: &str = "lent.json";
const IDLE: &str = "idle";
const SECTOR: u64 = 512;
/// How the serials of disks begin that are lent.
const SERIAL: &str = "lent";
/// How long others may be at it.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// A disk as a container has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    /// By which the agent finds it.
    pub serial: String,
    /// How large it is, once the guest has noticed what is behind it.
    pub bytes: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ledger {
    /// By their numbers.
    disks: Vec<Loan>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loan {
    read_only: bool,
    /// Whose it is, and what is behind it.
    holder: Option<(String, PathBuf)>,
}

impl Ledger {
    /// Enters a loan; the disk's serial. One device in two disks would have two caches in one kernel.
    fn lend(&mut self, holder: &str, path: &Path, read_only: bool) -> Result<String, DeviceError> {
        let taken = |loan: &Loan| loan.holder.as_ref().is_some_and(|(_, known)| known == path);
        if self.disks.iter().any(taken) {
            return Err(DeviceError::Taken(path.to_owned()));
        }
        let free = |loan: &Loan| loan.holder.is_none() && loan.read_only == read_only;
        let number = self.disks.iter().position(free).unwrap_or(self.disks.len());
        let loan = Loan {
            read_only,
            holder: Some((holder.to_owned(), path.to_owned())),
        };
        match self.disks.get_mut(number) {
            Some(place) => *place = loan,
            None => self.disks.push(loan),
        }
        Ok(serial(number))
    }

    /// The numbers of what somebody holds.
    fn held_by(&self, holder: &str) -> Vec<usize> {
        let is_his = |loan: &Loan| loan.holder.as_ref().is_some_and(|(known, _)| known == holder);
        let numbered = self.disks.iter().enumerate();
        numbered
            .filter(|(_, loan)| is_his(loan))
            .map(|(number, _)| number)
            .collect()
    }

    fn is_back(&mut self, number: usize) {
        if let Some(loan) = self.disks.get_mut(number) {
            loan.holder = None;
        }
    }
}

fn serial(number: usize) -> String {
    format!("{SERIAL}{number}")
}

impl Devices {
    /// Lends disks to `holder`, a name that nobody else ever has. What he is to have he has to [give back](Self::give_back),
    /// also when this fails.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn lend(&self, holder: &str, disks: &[Disk]) -> Result<Vec<Lent>, DeviceError> {
        if disks.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let mut ledger = self.ledger()?;
        let own = self.config()?.drives;
        let mut new = Vec::with_capacity(disks.len());
        for disk in disks {
            let is_own = |drive: &koya_api::config::Drive| {
                let is_lent = drive.drive_id.starts_with(SERIAL);
                !is_lent && drive.path_on_host.as_deref() == Some(&disk.path)
            };
            if own.iter().any(is_own) {
                return Err(DeviceError::Taken(disk.path.clone()));
            }
            new.push(Disk {
                serial: ledger.lend(holder, &disk.path, disk.read_only)?,
                ..disk.clone()
            });
        }
        self.enter(&ledger)?;
        let lend = |disk: Disk| {
            let bytes = length(&disk.path)?;
            self.add_disk(&disk)?;
            let serial = disk.serial;
            Ok(Lent { serial, bytes })
        };
        new.into_iter().map(lend).collect()
    }

    /// Takes everything back that was lent to `holder`. Nobody in the guest may use it any more.
    ///
    /// # Errors
    /// [`DeviceError`]; it may be tried again. A microVM that has ended has nothing of anybody's.
    pub fn give_back(&self, holder: &str) -> Result<(), DeviceError> {
        if !self.folder().join(LEDGER).exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut ledger = self.ledger()?;
        let held = ledger.held_by(holder);
        if held.is_empty() {
            return Ok(());
        }
        let idle = self.folder().join(IDLE);
        let made = File::create(&idle).and_then(|file| file.set_len(SECTOR));
        made.map_err(DeviceError::Folder)?;
        let known = self.config()?.drives;
        for number in held {
            let serial = serial(number);
            // One that the VMM never got is back already.
            if known.iter().any(|drive| drive.drive_id == serial) {
                self.exchange_disk(&serial, &idle)?;
            }
            ledger.is_back(number);
        }
        self.enter(&ledger)
    }

    fn lock(&self) -> Result<File, DeviceError> {
        let folder = File::open(self.folder()).map_err(DeviceError::Folder)?;
        let begun = Instant::now();
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(folder),
                Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
                Err(errno) => return Err(DeviceError::Folder(errno.into())),
            }
        }
    }

    fn ledger(&self) -> Result<Ledger, DeviceError> {
        match fs::read(self.folder().join(LEDGER)) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| DeviceError::Folder(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ledger::default()),
            Err(error) => Err(DeviceError::Folder(error)),
        }
    }

    /// Writes the ledger: all of it, or nothing.
    fn enter(&self, ledger: &Ledger) -> Result<(), DeviceError> {
        let path = self.folder().join(LEDGER);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(ledger).map_err(|error| DeviceError::Folder(error.into()))?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(DeviceError::Folder)
    }
}

/// Bytes of a block device, in whole sectors.
fn length(path: &Path) -> Result<u64, DeviceError> {
    let end = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    end.map(|end| end & !(SECTOR - 1))
        .map_err(|source| DeviceError::Device {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_lent_again_and_nothing_else() {
        let mut ledger = Ledger::default();
        let mut lend = |holder: &str, path: &str, read_only| ledger.lend(holder, path.as_ref(), read_only);
        assert_eq!(lend("b", "/dev/sdb", false).unwrap(), "lent0");
        assert_eq!(lend("b", "/dev/sdc", true).unwrap(), "lent1");
        // Two disks with one device would not know of each other's writes.
        assert!(matches!(lend("c", "/dev/sdb", true), Err(DeviceError::Taken(_))));
        assert_eq!(ledger.held_by("b"), [0, 1]);
        for number in ledger.held_by("b") {
            ledger.is_back(number);
        }
        let mut lend = |holder: &str, path: &str, read_only| ledger.lend(holder, path.as_ref(), read_only);
        // One that was made read-only stays so.
        assert_eq!(lend("c", "/dev/sdc", true).unwrap(), "lent1");
        assert_eq!(lend("c", "/dev/sdd", true).unwrap(), "lent2");
        assert_eq!(lend("d", "/dev/sdb", false).unwrap(), "lent0");
        // Whoever gives back once more has nothing of the next one's.
        assert_eq!(ledger.held_by("b"), Vec::<usize>::new());
        assert_eq!(ledger.held_by("c"), [1, 2]);
        ledger.is_back(7);
    }

    #[test]
    fn a_microvm_that_has_lent_nothing_takes_nothing_back() {
        Devices::of("/nowhere".as_ref()).give_back("b").unwrap();
        let folder = std::env::temp_dir().join(format!("koya-lent-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let devices = Devices::of(&folder);
        let mut ledger = Ledger::default();
        ledger.lend("b", "/dev/sdb".as_ref(), true).unwrap();
        devices.enter(&ledger).unwrap();
        assert_eq!(devices.ledger().unwrap(), ledger);
        devices.give_back("c").unwrap();
        // Without a VMM it stays his.
        assert!(matches!(devices.give_back("b"), Err(DeviceError::Api(_))));
        assert_eq!(devices.ledger().unwrap(), ledger);
        fs::remove_dir_all(folder).unwrap();
    }
}
