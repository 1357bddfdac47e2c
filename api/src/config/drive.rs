//! Drives.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{IdError, PathError, RateLimiter, check_path};

/// A block device. Its contents come from a file of the host, or from another process over vhost-user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Names the drive in the API.
    pub drive_id: String,
    /// The partition to mount as root, for the kernel's `root=PARTUUID=`. Used only on a root device.
    pub partuuid: Option<String>,
    /// Whether the guest mounts this drive as its root. It is then the first one the guest sees.
    pub is_root_device: bool,
    /// What a flush of the guest's does.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Whether the guest is kept from writing; it is not unless asked for. Not for vhost-user.
    pub is_read_only: Option<bool>,
    /// The file or block device of the host. Not for vhost-user.
    pub path_on_host: Option<PathBuf>,
    /// How fast the guest may use it. Not for vhost-user.
    pub rate_limiter: Option<RateLimiter>,
    /// How the file is read and written; [`IoEngine::Sync`] unless asked for. Not for vhost-user.
    pub io_engine: Option<IoEngine>,
    /// The socket of the vhost-user process that has the contents.
    pub socket: Option<PathBuf>,
}

/// Parts of a [`Drive`] to change while the guest runs; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// The drive in question.
    pub drive_id: String,
    /// The file to use from now on. The guest is told of the new size.
    pub path_on_host: Option<PathBuf>,
    /// The new rate limiter.
    pub rate_limiter: Option<RateLimiter>,
}

/// What a flush of the guest's does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Nothing: the guest is not offered flushes, and a crash of the host may lose what it wrote.
    #[default]
    Unsafe,
    /// The host writes everything to stable storage.
    Writeback,
}

/// How the file behind a drive is read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// By blocking system calls.
    #[default]
    Sync,
    /// By io_uring.
    Async,
}

/// Where a drive's contents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveBackend<'a> {
    /// A file or block device of the host.
    File {
        /// Its path.
        path: &'a Path,
        /// Whether the guest is kept from writing.
        read_only: bool,
        /// How it is read and written.
        engine: IoEngine,
    },
    /// A process that speaks vhost-user.
    VhostUser {
        /// The path of its socket.
        socket: &'a Path,
    },
}

/// A drive that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriveConfigError {
    /// Its identifier.
    #[error("the drive's id")]
    Id(#[source] IdError),
    /// Another drive is root already. Clients match this text.
    #[error("A root block device already exists! {existing:?} is the root device, so {id:?} cannot be")]
    SecondRoot {
        /// The root device.
        existing: String,
        /// The one that would be the second.
        id: String,
    },
    /// Two drives with one identifier.
    #[error("two drives have the id {0:?}: each needs one of its own")]
    DuplicateId(String),
    /// No contents, or two of them.
    #[error(
        "drive {0:?} needs either `path_on_host`, or `socket` alone without `is_read_only`, `rate_limiter` and \
         `io_engine`"
    )]
    Backend(String),
    /// A path that no file can have.
    #[error("drive {id:?}")]
    Path {
        /// The drive.
        id: String,
        /// What is wrong with the path.
        #[source]
        source: PathError,
    },
    /// A partition identifier that would break the kernel's command line.
    #[error(
        "drive {id:?} has {character:?} in its `partuuid`: letters, digits, '-', '/', '=' and '_' can be in one"
    )]
    Partuuid {
        /// The drive.
        id: String,
        /// The first wrong character.
        character: char,
    },
}

impl Drive {
    /// Where the contents come from.
    ///
    /// # Errors
    /// [`DriveConfigError::Backend`] when that is not said, or said twice.
    pub fn backend(&self) -> Result<DriveBackend<'_>, DriveConfigError> {
        match (self.path_on_host.as_deref(), self.socket.as_deref()) {
            (Some(path), None) => Ok(DriveBackend::File {
                path,
                read_only: self.is_read_only.unwrap_or(false),
                engine: self.io_engine.unwrap_or_default(),
            }),
            (None, Some(socket))
                if self.is_read_only.is_none() && self.rate_limiter.is_none() && self.io_engine.is_none() =>
            {
                Ok(DriveBackend::VhostUser { socket })
            }
            _ => Err(DriveConfigError::Backend(self.drive_id.clone())),
        }
    }

    /// Checks what needs no file system; not the identifier, whose rule depends on where it comes from.
    ///
    /// # Errors
    /// [`DriveConfigError`]
    pub fn validate(&self) -> Result<(), DriveConfigError> {
        let (field, path) = match self.backend()? {
            DriveBackend::File { path, .. } => ("path_on_host", path),
            DriveBackend::VhostUser { socket } => ("socket", socket),
        };
        check_path(field, path).map_err(|source| DriveConfigError::Path {
            id: self.drive_id.clone(),
            source,
        })?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '=' | '_');
        match self
            .partuuid
            .as_deref()
            .and_then(|uuid| uuid.chars().find(|&c| !allowed(c)))
        {
            Some(character) => Err(DriveConfigError::Partuuid {
                id: self.drive_id.clone(),
                character,
            }),
            None => Ok(()),
        }
    }

    /// Adds this drive to `drives`, or replaces the one with its id there. A root device comes first.
    ///
    /// # Errors
    /// [`DriveConfigError`]; `drives` is then as it was.
    pub fn insert_into(self, drives: &mut Vec<Drive>) -> Result<(), DriveConfigError> {
        self.validate()?;
        let other_root = drives
            .iter()
            .find(|drive| drive.is_root_device && drive.drive_id != self.drive_id);
        if self.is_root_device
            && let Some(root) = other_root
        {
            return Err(DriveConfigError::SecondRoot {
                existing: root.drive_id.clone(),
                id: self.drive_id,
            });
        }
        match drives.iter_mut().find(|drive| drive.drive_id == self.drive_id) {
            Some(place) => *place = self,
            None => drives.push(self),
        }
        // Stable: the others keep the order in which they were added.
        drives.sort_by_key(|drive| !drive.is_root_device);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str, root: bool) -> Drive {
        Drive {
            drive_id: id.into(),
            is_root_device: root,
            path_on_host: Some("disk".into()),
            ..Drive::default()
        }
    }

    #[test]
    fn it_is_reported_with_every_field() {
        let text = serde_json::to_string(&Drive {
            io_engine: Some(IoEngine::Async),
            ..drive("a", false)
        })
        .unwrap();
        assert_eq!(
            text,
            r#"{"drive_id":"a","partuuid":null,"is_root_device":false,"cache_type":"Unsafe","is_read_only":null,"path_on_host":"disk","rate_limiter":null,"io_engine":"Async","socket":null}"#
        );
    }

    #[test]
    fn contents_come_from_one_place() {
        let file = DriveBackend::File {
            path: Path::new("disk"),
            read_only: false,
            engine: IoEngine::Sync,
        };
        assert_eq!(drive("a", false).backend(), Ok(file));
        let user = Drive {
            socket: Some("s".into()),
            path_on_host: None,
            ..drive("a", false)
        };
        assert_eq!(
            user.backend(),
            Ok(DriveBackend::VhostUser {
                socket: Path::new("s")
            })
        );
        for wrong in [
            Drive {
                path_on_host: None,
                ..drive("a", false)
            },
            Drive {
                socket: Some("s".into()),
                ..drive("a", false)
            },
            Drive {
                is_read_only: Some(true),
                ..user
            },
        ] {
            assert_eq!(wrong.validate(), Err(DriveConfigError::Backend("a".into())));
        }
    }

    #[test]
    fn the_root_device_comes_first_and_is_alone() {
        let mut drives = Vec::new();
        for (id, root) in [("a", false), ("b", false), ("r", true)] {
            drive(id, root).insert_into(&mut drives).unwrap();
        }
        let ids = |drives: &[Drive]| drives.iter().map(|d| d.drive_id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&drives), ["r", "a", "b"]);
        let err = drive("b", true).insert_into(&mut drives).unwrap_err();
        assert!(
            err.to_string().starts_with("A root block device already exists!"),
            "{err}"
        );
        // Updating the root device, and giving its place away, are allowed.
        drive("r", true).insert_into(&mut drives).unwrap();
        drive("r", false).insert_into(&mut drives).unwrap();
        drive("b", true).insert_into(&mut drives).unwrap();
        assert_eq!(ids(&drives), ["b", "r", "a"]);
    }

    #[test]
    fn a_partuuid_cannot_smuggle_kernel_parameters() {
        let uuid = |text: &str| Drive {
            partuuid: Some(text.into()),
            ..drive("a", true)
        };
        assert_eq!(uuid("0eaa91a0-01").validate(), Ok(()));
        assert_eq!(uuid("0eaa91a0-01/PARTNROFF=1").validate(), Ok(()));
        assert!(uuid("x init=/bin/sh").validate().is_err());
    }
}
