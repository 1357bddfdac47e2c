//! Files of the host: read whole, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use super::error::SetupError;

/// Bytes of settings; what is larger has to be something else.
pub const LARGEST: u64 = 1 << 20;
/// What a new file may be done with, and a new folder.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// A path of a host whose `/` is `root`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    let names = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)));
    names.fold(root.to_owned(), |path, name| path.join(name))
}

/// The file itself, where a link leads to it: the link stays. A link must not lead out of `root`.
///
/// # Errors
/// [`SetupError`]
pub fn behind_links(root: &Path, path: &Path) -> Result<PathBuf, SetupError> {
    let failed = |act| failed(act, path);
    // What is not there yet is made in the folder that is.
    let Some(there) = path.ancestors().find(|path| path.symlink_metadata().is_ok()) else {
        return Ok(path.to_owned());
    };
    let target = fs::canonicalize(there).map_err(failed("following"))?;
    let root = fs::canonicalize(root).map_err(failed("looking for the root of"))?;
    if !target.starts_with(&root) {
        return Err(SetupError::Unfit {
            path: path.to_owned(),
            is: "leads out of the folder given by --root",
        });
    }
    let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
    Ok(if rest.as_os_str().is_empty() {
        target
    } else {
        target.join(rest)
    })
}

/// The text of a file of settings; `None` if there is no such file.
///
/// # Errors
/// [`SetupError`]
pub fn read(path: &Path) -> Result<Option<String>, SetupError> {
    read_up_to(LARGEST, path)
}

/// The same of a file that may have so many bytes.
///
/// # Errors
/// [`SetupError`]
pub fn read_up_to(largest: u64, path: &Path) -> Result<Option<String>, SetupError> {
    let failed = |source| failed("reading", path)(source);
    let unfit = |is| SetupError::Unfit {
        path: path.to_owned(),
        is,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found if !found.as_ref().is_ok_and(fs::Metadata::is_file) => {
            found.map_err(failed)?;
            return Err(unfit("is no file"));
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let most = largest.saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > largest) {
        return Err(unfit("is larger than any file of settings"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| unfit("is not text in UTF-8"))
}

/// Replaces a file, or makes it, so that it is always the old one or the new one. It keeps its mode and owner.
///
/// # Errors
/// [`SetupError`]
pub fn write(path: &Path, text: &str, mode: Option<u32>) -> Result<(), SetupError> {
    let beside = beside(path);
    let written = place(path, &beside, text, mode.unwrap_or(FILE_MODE));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed("writing", path)(error)
    })
}

fn place(path: &Path, beside: &Path, text: &str, mode: u32) -> io::Result<()> {
    let _ = fs::remove_file(beside);
    let options = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(beside)
    };
    let mut file = options()?;
    file.write_all(text.as_bytes())?;
    match fs::metadata(path) {
        Ok(old) => {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        Err(_) => file.set_permissions(Permissions::from_mode(mode))?,
    }
    file.sync_all()?;
    fs::rename(beside, path)?;
    sync_folder(path)
}

/// Removes a file for good.
///
/// # Errors
/// [`SetupError`]
pub fn remove(path: &Path) -> Result<(), SetupError> {
    let removed = fs::remove_file(path).and_then(|()| sync_folder(path));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Which folders above a path are not there, the innermost first, as the host whose `/` is `root` calls them.
pub fn missing_folders(path: &Path, root: &Path) -> Vec<PathBuf> {
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let missing = path.ancestors().skip(1).take_while(|folder| !folder.exists());
    let inside = missing.filter_map(|folder| folder.strip_prefix(&root).ok());
    inside.map(|folder| Path::new("/").join(folder)).collect()
}

/// Makes the folder of a file, and those above it.
///
/// # Errors
/// [`SetupError`]
pub fn make_folder(path: &Path, mode: Option<u32>) -> Result<(), SetupError> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let mode = mode.unwrap_or(FOLDER_MODE);
    let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
    made.map_err(failed("making", folder))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A name in the same folder that no engine reads.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.koya-{}", std::process::id()))
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> SetupError {
    move |source| SetupError::File {
        act,
        path: path.to_owned(),
        source,
    }
}
