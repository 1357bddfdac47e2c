//! Paths in the configuration: what can be said about them without looking.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path Linux accepts, in bytes (`PATH_MAX` less the final NUL).
const MAX_PATH_BYTES: usize = 4095;

/// A path that no file can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty.
    #[error("`{field}` is empty: it must be the path of a file on the host")]
    Empty {
        /// The field of the configuration.
        field: &'static str,
    },
    /// It has a NUL byte.
    #[error("`{field}` has a NUL character at offset {offset}: a path cannot contain one")]
    Nul {
        /// The field of the configuration.
        field: &'static str,
        /// Where, in bytes.
        offset: usize,
    },
    /// It is too long.
    #[error("`{field}` has {length} bytes: a path has at most {MAX_PATH_BYTES}")]
    TooLong {
        /// The field of the configuration.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

/// Checks that `path`, given in `field`, could name a file.
///
/// # Errors
/// [`PathError`]
pub fn check_path(field: &'static str, path: &Path) -> Result<(), PathError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(PathError::Empty { field });
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong {
            field,
            length: bytes.len(),
        });
    }
    match bytes.iter().position(|&byte| byte == 0) {
        Some(offset) => Err(PathError::Nul { field, offset }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_paths_are_refused() {
        assert_eq!(check_path("p", Path::new("a/b")), Ok(()));
        assert_eq!(
            check_path("p", Path::new("")),
            Err(PathError::Empty { field: "p" })
        );
        assert_eq!(
            check_path("p", Path::new("a\0b")),
            Err(PathError::Nul {
                field: "p",
                offset: 1
            })
        );
        let long = "a".repeat(4096);
        assert_eq!(
            check_path("p", Path::new(&long)),
            Err(PathError::TooLong {
                field: "p",
                length: 4096
            })
        );
    }
}
