//! From files to a stream.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::error::shown;
use crate::{ArchiveError, Entry, Kind, Writer};

/// Folders in folders; each keeps a descriptor open, of which a process has 1024.
const DEEP: usize = 500;
/// Entries of one folder, which are held in memory while it is packed.
const CROWD: usize = 1_000_000;
/// Files with several names that are remembered. Others are packed once for each name.
const LINKS: usize = 1_000_000;
const BUFFER: usize = 128 << 10;
/// Largest extended attribute (limits.h, XATTR_SIZE_MAX), and largest list of them.
const XATTR: usize = 64 << 10;

/// Packs the entry `name` of `folder` under the name `top`, a folder with all that is in it. With `follow`, a
/// symbolic link called `name` stands for what it leads to; links further below never do. `.` packs the folder itself.
/// Sockets are left out.
///
/// # Errors
/// [`ArchiveError::File`] with what cannot be read, [`ArchiveError::Stream`] if nobody takes the stream.
pub fn pack(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    top: &OsStr,
    follow: bool,
    output: impl Write,
) -> Result<(), ArchiveError> {
    let mut packer = Packer {
        writer: Writer::new(io::BufWriter::with_capacity(BUFFER, output)),
        links: HashMap::new(),
    };
    packer.one(folder, name, top.as_bytes().to_vec(), follow)?;
    packer.writer.finish().map_err(ArchiveError::Stream)
}

struct Packer<W> {
    writer: Writer<W>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A folder that is being packed.
struct Level {
    folder: OwnedFd,
    path: Vec<u8>,
    /// Last first.
    names: Vec<CString>,
}

impl<W: Write> Packer<W> {
    fn one(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        top: Vec<u8>,
        follow: bool,
    ) -> Result<(), ArchiveError> {
        let name =
            CString::new(name.as_bytes()).map_err(|_| file(&top, "opening")(rustix::io::Errno::INVAL))?;
        let mut levels = Vec::new();
        levels.extend(self.entry(folder, &name, top, follow)?);
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = joined(&level.path, name.as_bytes());
            if let Some(inner) = self.entry(level.folder.as_fd(), &name, path, false)? {
                if levels.len() >= DEEP {
                    return Err(ArchiveError::Deep {
                        path: shown(&inner.path),
                        limit: DEEP,
                    });
                }
                levels.push(inner);
            }
        }
        Ok(())
    }

    /// Packs one entry; answers what is in it if it is a folder.
    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CString,
        path: Vec<u8>,
        follow: bool,
    ) -> Result<Option<Level>, ArchiveError> {
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        let found = fs::statat(folder, name, flags).map_err(file(&path, "looking at it"))?;
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(None),
        };
        let mut entry = described(&found, kind, path);
        if kind != Kind::Folder && found.st_nlink > 1 {
            let id = (found.st_dev, found.st_ino);
            if let Some(first) = self.links.get(&id) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                self.write(&entry)?;
                return Ok(None);
            }
            if self.links.len() < LINKS {
                self.links.insert(id, entry.path.clone());
            }
        }
        match kind {
            Kind::Symlink => {
                let target = fs::readlinkat(folder, name, Vec::new())
                    .map_err(file(&entry.path, "reading the link"))?;
                entry.link = target.into_bytes();
                self.write(&entry)?;
                Ok(None)
            }
            Kind::File => self
                .file(&open(folder, name, &entry.path, follow, &found)?, entry)
                .map(|()| None),
            Kind::Folder => {
                let opened = open(folder, name, &entry.path, follow, &found)?;
                entry.xattrs = xattrs(&opened);
                self.write(&entry)?;
                let names = names(&opened, &entry.path)?;
                Ok(Some(Level {
                    folder: opened,
                    path: entry.path,
                    names,
                }))
            }
            _ => self.write(&entry).map(|()| None),
        }
    }

    fn file(&mut self, opened: &OwnedFd, mut entry: Entry) -> Result<(), ArchiveError> {
        let found = fs::fstat(opened).map_err(file(&entry.path, "looking at it"))?;
        entry.size = u64::try_from(found.st_size).unwrap_or(0);
        entry.xattrs = xattrs(opened);
        self.write(&entry)?;
        let again = opened
            .try_clone()
            .map_err(|error| file_io(&entry.path, "opening")(error))?;
        let mut input = File::from(again);
        let mut buffer = vec![0; BUFFER];
        let mut left = entry.size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let space = buffer.get_mut(..room).unwrap_or_default();
            let count = match input.read(space) {
                // It became shorter: what is missing counts as zeros, as for other programs.
                Ok(0) => {
                    space.fill(0);
                    room
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(file_io(&entry.path, "reading")(error)),
            };
            let bytes = space.get(..count).unwrap_or_default();
            self.writer
                .data()
                .write_all(bytes)
                .map_err(ArchiveError::Stream)?;
            left = left.saturating_sub(count as u64);
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.writer.entry(entry).map_err(ArchiveError::Stream)
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    [folder, b"/", name].concat()
}

fn described(found: &Stat, kind: Kind, path: Vec<u8>) -> Entry {
    Entry {
        path,
        link: Vec::new(),
        kind,
        mode: u16::try_from(found.st_mode & 0o7777).unwrap_or(0),
        uid: found.st_uid,
        gid: found.st_gid,
        mtime: (found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or(0)),
        size: 0,
        xattrs: Vec::new(),
    }
}

/// Opens what was looked at, and makes sure that it still is what it was.
fn open(
    folder: BorrowedFd<'_>,
    name: &CString,
    path: &[u8],
    follow: bool,
    found: &Stat,
) -> Result<OwnedFd, ArchiveError> {
    // A queue that took a file's place would have one wait for its other end.
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let opened = fs::openat(folder, name, flags, Mode::empty()).map_err(file(path, "opening"))?;
    let now = fs::fstat(&opened).map_err(file(path, "looking at it"))?;
    if FileType::from_raw_mode(now.st_mode) != FileType::from_raw_mode(found.st_mode) {
        let changed = io::Error::other("it became something else while it was packed");
        return Err(file_io(path, "opening")(changed));
    }
    Ok(opened)
}

/// What is in a folder, backwards.
fn names(folder: &OwnedFd, path: &[u8]) -> Result<Vec<CString>, ArchiveError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(file(path, "listing"))? {
        let entry = entry.map_err(file(path, "listing"))?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() >= CROWD {
            return Err(ArchiveError::Crowded {
                path: shown(path),
                limit: CROWD,
            });
        }
        names.push(entry.file_name().to_owned());
    }
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

/// Attributes that mean something elsewhere. File systems without them have none.
fn xattrs(opened: &OwnedFd) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; XATTR];
    let Ok(length) = fs::flistxattr(opened, &mut list) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut value = vec![0; XATTR];
    for name in list.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        if !is_kept(name) {
            continue;
        }
        let Ok(length) = fs::fgetxattr(opened, OsStr::from_bytes(name), &mut value) else {
            continue;
        };
        found.push((name.to_vec(), value.get(..length).unwrap_or_default().to_vec()));
    }
    found
}

/// Users' own, capabilities of programs, and access lists.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability" || name.starts_with(b"system.posix_acl_")
}

pub(crate) fn file(path: &[u8], act: &'static str) -> impl Fn(rustix::io::Errno) -> ArchiveError {
    let path = shown(path);
    move |errno| ArchiveError::File {
        path: path.clone(),
        act,
        source: errno.into(),
    }
}

pub(crate) fn file_io(path: &[u8], act: &'static str) -> impl Fn(io::Error) -> ArchiveError {
    let path = shown(path);
    move |source| ArchiveError::File {
        path: path.clone(),
        act,
        source,
    }
}
