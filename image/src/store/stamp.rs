//! Whether a file or folder is still what it was when it was last loaded.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::source::folder::Walk;
use crate::{Digest, ImageError, Source};

/// A source's key, by which the index finds it, and a digest that changes whenever the source does. `None` for
/// names.
pub(super) fn of(source: &Source) -> Result<Option<(String, Digest)>, ImageError> {
    let Some(path) = source.path() else {
        return Ok(None);
    };
    let fault = |source: io::Error| ImageError::Open {
        path: path.to_owned(),
        source,
    };
    let canonical = match fs::canonicalize(path) {
        // A file without a name has no other path than that of its descriptor.
        Err(_) if path.is_file() => path.to_owned(),
        outcome => outcome.map_err(fault)?,
    };
    let text = source.to_string();
    let key = text.replacen(&path.display().to_string(), &canonical.display().to_string(), 1);
    let found = fs::metadata(&canonical).map_err(fault)?;
    if !found.is_dir() {
        return Ok(Some((key, files(&[&canonical]).map_err(fault)?)));
    }
    let index = canonical.join("index.json");
    let stamp = if index.is_file() && canonical.join("oci-layout").is_file() {
        // All else is named by digests, beginning here.
        files(&[&index]).map_err(fault)?
    } else {
        Walk::new(&canonical)?.stamp()?
    };
    Ok(Some((key, stamp)))
}

/// The time of change cannot be set back by whoever writes a file.
fn files(paths: &[&Path]) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    for path in paths {
        let found = fs::metadata(path)?;
        for number in [found.dev(), found.ino(), found.size()] {
            hash.update(number.to_le_bytes());
        }
        for number in [
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ] {
            hash.update(number.to_le_bytes());
        }
    }
    Ok(Digest::finish(hash))
}
