//! Reading the config file, which may be anything.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{VmConfig, VmConfigError};
use crate::json::{self, JsonError};

/// Largest config file: 1 MiB, several thousand drives' worth.
pub const MAX_CONFIG_FILE_BYTES: u64 = 1 << 20;

/// A config file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be opened.
    #[error("cannot open the config file {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else than a file.
    #[error("the config file {path:?} is {kind}: it must be a regular file with JSON in it")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// It is too large.
    #[error("the config file {path:?} has {length} bytes: it must have at most {MAX_CONFIG_FILE_BYTES}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length, or how much of it was seen, in bytes.
        length: u64,
    },
    /// It cannot be read.
    #[error("cannot read the config file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its contents are not what they should be.
    #[error("config file {path:?}: Invalid JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// What, in which field, at which line and column.
        #[source]
        source: JsonError,
    },
    /// It describes no possible microVM.
    #[error("config file {path:?}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: VmConfigError,
    },
}

impl VmConfig {
    /// Reads and checks a config file.
    ///
    /// # Errors
    /// [`ConfigFileError`]. A file that is no file or too large is not read.
    pub fn from_file(path: &Path) -> Result<Self, ConfigFileError> {
        let bytes = read(path)?;
        let config: Self = json::from_slice(&bytes).map_err(|source| ConfigFileError::Json {
            path: path.into(),
            source,
        })?;
        config.validate().map_err(|source| ConfigFileError::Invalid {
            path: path.into(),
            source,
        })?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigFileError> {
    // Without O_NONBLOCK, opening a named pipe would wait for somebody to write to it.
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = open.map_err(|source| ConfigFileError::Open {
        path: path.into(),
        source,
    })?;
    let failed = |source| ConfigFileError::Read {
        path: path.into(),
        source,
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(ConfigFileError::NotAFile {
            path: path.into(),
            kind: kind(about.file_type()),
        });
    }
    if about.len() > MAX_CONFIG_FILE_BYTES {
        return Err(ConfigFileError::TooLarge {
            path: path.into(),
            length: about.len(),
        });
    }
    // Files of /proc claim to be empty and a file may grow meanwhile, so the length is no promise.
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    file.take(MAX_CONFIG_FILE_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > MAX_CONFIG_FILE_BYTES {
        return Err(ConfigFileError::TooLarge {
            path: path.into(),
            length,
        });
    }
    Ok(bytes)
}

fn kind(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "no regular file"
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::error::one_line;
    use vmm_sys_util::tempdir::TempDir;

    fn refused(path: &Path) -> String {
        let line = one_line(&VmConfig::from_file(path).unwrap_err());
        assert!(line.contains(&format!("{path:?}")), "{line}");
        assert_eq!(line.lines().count(), 1);
        line
    }

    #[test]
    fn a_good_file_is_read() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("vm.json");
        fs::write(&path, r#"{"boot-source":{"kernel_image_path":"k"}}"#).unwrap();
        assert_eq!(
            VmConfig::from_file(&path).unwrap().boot_source.kernel_image_path,
            Path::new("k")
        );
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = TempDir::new().unwrap();
        assert!(refused(dir.as_path()).contains("a directory"));
        assert!(refused(&dir.as_path().join("nothing")).contains("No such file"));
        assert!(refused(Path::new("/dev/null")).contains("a device"));
        let fifo = dir.as_path().join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        assert!(refused(&fifo).contains("a named pipe"));
    }

    #[test]
    fn a_huge_file_is_refused_by_its_length() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("huge");
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        let line = refused(&path);
        assert!(line.contains("104857600") && line.contains("1048576"), "{line}");
    }

    #[test]
    fn wrong_contents_say_where() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("vm.json");
        for (contents, expected) in [
            (&b""[..], "EOF while parsing a value at line 1 column 0"),
            (b"{\"boot-source\"", "line 1"),
            (b"[]", "line 1"),
            (b"\xff\xfe", "offset 0"),
            (b"{\"boot-source\":{\"kernel_image_path\":\"k\"},\n\"drives\":3}", "line 2 column 10, in the field `drives`"),
            (b"{\"boot-source\":{\"kernel_image_path\":\"k\"}} x", "trailing characters"),
            (
                b"{\"boot-source\":{\"kernel_image_path\":\"k\"},\"machine-config\":{\"vcpu_count\":33,\"mem_size_mib\":1}}",
                "machine-config: `vcpu_count` is 33: it must be 1 to 32",
            ),
        ] {
            fs::write(&path, contents).unwrap();
            let line = refused(&path);
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("deep");
        fs::write(&path, format!("{{\"balloon\":{}", "[".repeat(900_000))).unwrap();
        refused(&path);
    }
}
