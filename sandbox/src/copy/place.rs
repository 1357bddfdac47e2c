//! Where a copy goes and what it is called: the rules of `docker cp`, the same in both directions.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use koya_archive::last_part;

use super::CopyError;

/// What is copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// Last part of its path; `.` if the contents of a folder are meant.
    pub name: &'a OsStr,
    /// A folder, not a link to one.
    pub is_folder: bool,
}

/// What is where it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    File,
    Folder,
}

/// Where it goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// A folder that should exist.
    pub folder: PathBuf,
    /// What the source is called there; `None`: what is in it keeps its names.
    pub top: Option<OsString>,
}

pub(super) fn place(source: Source<'_>, to: &Path, there: There) -> Result<Place, CopyError> {
    let bytes = to.as_os_str().as_bytes();
    let name = last_part(bytes);
    let must_be_folder = bytes.ends_with(b"/") || name == ".";
    match there {
        There::Folder => {
            let is_contents = source.is_folder && source.name == ".";
            return Ok(Place {
                folder: to.to_owned(),
                top: (!is_contents).then(|| source.name.to_owned()),
            });
        }
        There::File if must_be_folder => return Err(CopyError::NoFolder(to.to_owned())),
        There::File if source.is_folder => return Err(CopyError::FolderOverFile(to.to_owned())),
        There::Nothing if name == "." || (must_be_folder && !source.is_folder) => {
            return Err(CopyError::NoFolder(to.to_owned()));
        }
        There::File | There::Nothing => {}
    }
    let folder = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok(Place {
        folder,
        top: Some(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, is_folder: bool, to: &str, there: There) -> Option<(String, Option<String>)> {
        let source = Source {
            name: OsStr::new(name),
            is_folder,
        };
        let place = place(source, Path::new(to), there).ok()?;
        let top = place.top.map(|top| top.into_string().unwrap());
        Some((place.folder.to_str().unwrap().to_owned(), top))
    }

    fn at(folder: &str, top: &str) -> Option<(String, Option<String>)> {
        Some((folder.to_owned(), Some(top.to_owned())))
    }

    #[test]
    fn files_go_as_docker_cp_has_them() {
        assert_eq!(found("f", false, "/a/new", There::Nothing), at("/a", "new"));
        assert_eq!(found("f", false, "new", There::Nothing), at(".", "new"));
        assert_eq!(found("f", false, "/a/new/", There::Nothing), None);
        assert_eq!(found("f", false, "/a/old", There::File), at("/a", "old"));
        assert_eq!(found("f", false, "/a/old/", There::File), None);
        assert_eq!(found("f", false, "/a", There::Folder), at("/a", "f"));
        assert_eq!(found("f", false, ".", There::Folder), at(".", "f"));
    }

    #[test]
    fn folders_go_as_docker_cp_has_them() {
        assert_eq!(found("d", true, "/a/new", There::Nothing), at("/a", "new"));
        assert_eq!(found("d", true, "/a/new/", There::Nothing), at("/a", "new"));
        assert_eq!(found("d", true, "/a/old", There::File), None);
        assert_eq!(found("d", true, "/a", There::Folder), at("/a", "d"));
        assert_eq!(found(".", true, "/a", There::Folder), Some(("/a".into(), None)));
        assert_eq!(found(".", true, "/a/new", There::Nothing), at("/a", "new"));
        assert_eq!(found(".", true, "/a/..", There::Nothing), None);
    }
}
