//! Folders of the host that the guest mounts. An addition of Koya's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{IdError, PathError, check_path};

/// Longest tag of a shared folder, in bytes (virtio 1.2 §5.11.4).
pub const MAX_TAG_BYTES: usize = 36;

/// A folder of the host that the guest mounts by its tag (virtio 1.2 §5.11), served by a program like virtiofsd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFolder {
    /// Names the folder in the API.
    pub folder_id: String,
    /// What the guest mounts, 1 to 36 bytes: `mount -t virtiofs TAG /mnt`.
    pub tag: String,
    /// The unix socket of the vhost-user program that serves the folder; somebody must be listening.
    pub socket: PathBuf,
}

/// A shared folder that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedFolderError {
    /// Its identifier.
    #[error("the shared folder's id")]
    Id(#[source] IdError),
    /// Two folders with one identifier.
    #[error("two shared folders have the id {0:?}: each needs one of its own")]
    DuplicateId(String),
    /// Two folders with one tag.
    #[error(
        "the shared folders {first:?} and {second:?} both have the tag {tag:?}: each needs one of its own"
    )]
    TagInUse {
        /// The first folder.
        first: String,
        /// The second folder.
        second: String,
        /// The tag.
        tag: String,
    },
    /// A tag that no guest could use.
    #[error(
        "shared folder {id:?} has a `tag` of {length} bytes that begins with {start:?}: it must have 1 to {MAX_TAG_BYTES} bytes \
         without control characters"
    )]
    Tag {
        /// The folder.
        id: String,
        /// The first characters of the tag.
        start: String,
        /// Its length in bytes.
        length: usize,
    },
    /// Its socket's path.
    #[error("shared folder {id:?}")]
    Socket {
        /// The folder.
        id: String,
        /// What is wrong with the path.
        source: PathError,
    },
}

impl SharedFolder {
    /// Checks what needs no host; not the identifier, whose rule depends on where it comes from.
    ///
    /// # Errors
    /// [`SharedFolderError`]
    pub fn validate(&self) -> Result<(), SharedFolderError> {
        let tag = self.tag.as_str();
        if tag.is_empty() || tag.len() > MAX_TAG_BYTES || tag.chars().any(char::is_control) {
            return Err(SharedFolderError::Tag {
                id: self.folder_id.clone(),
                start: tag.chars().take(16).collect(),
                length: tag.len(),
            });
        }
        check_path("socket", &self.socket).map_err(|source| SharedFolderError::Socket {
            id: self.folder_id.clone(),
            source,
        })
    }

    /// Checks this folder against `others`, of which one with its id is about to be replaced.
    ///
    /// # Errors
    /// [`SharedFolderError`]
    pub fn check_among<'a>(
        &self,
        others: impl IntoIterator<Item = &'a SharedFolder>,
    ) -> Result<(), SharedFolderError> {
        self.validate()?;
        let twin = others
            .into_iter()
            .find(|other| other.folder_id != self.folder_id && other.tag == self.tag);
        match twin {
            None => Ok(()),
            Some(other) => Err(SharedFolderError::TagInUse {
                first: other.folder_id.clone(),
                second: self.folder_id.clone(),
                tag: self.tag.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(id: &str, tag: &str) -> SharedFolder {
        SharedFolder {
            folder_id: id.into(),
            tag: tag.into(),
            socket: "fs.sock".into(),
        }
    }

    #[test]
    fn impossible_tags_and_sockets_are_refused() {
        assert_eq!(folder("a", &"x".repeat(36)).validate(), Ok(()));
        for tag in ["", "a\nb", "a\0", &"x".repeat(37), &"ä".repeat(19)] {
            let error = folder("a", tag).validate().unwrap_err().to_string();
            assert!(error.contains("1 to 36") && error.contains("\"a\""), "{error}");
        }
        let nowhere = SharedFolder {
            socket: PathBuf::new(),
            ..folder("a", "t")
        };
        assert!(matches!(
            nowhere.validate(),
            Err(SharedFolderError::Socket { .. })
        ));
    }

    #[test]
    fn a_tag_belongs_to_one_folder() {
        let known = [folder("a", "one"), folder("b", "two")];
        assert_eq!(folder("a", "one").check_among(&known), Ok(()), "replaced");
        let error = folder("c", "two").check_among(&known).unwrap_err().to_string();
        assert!(
            error.contains("\"b\" and \"c\" both have the tag \"two\""),
            "{error}"
        );
    }
}
