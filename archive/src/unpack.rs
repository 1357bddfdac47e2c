//! From a stream to files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::fs::{CWD, XattrFlags};
use rustix::io::Errno;

use crate::error::shown;
use crate::pack::{file, file_io, is_kept};
use crate::{ArchiveError, Entry, Kind, Reader};

const BUFFER: usize = 128 << 10;
/// Folders whose modes and times are set at the end, and are remembered until then.
const FOLDERS: usize = 1_000_000;

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The caller's.
    Caller,
    /// Whose they were, as numbers.
    AsPacked,
    /// Root's.
    Root,
}

/// How a stream is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpack {
    /// Takes the place of the first part of every name.
    pub top: Option<OsString>,
    /// Whose the files become.
    pub owner: Owner,
    /// The caller's root is that of the container: links on the way to a file lead nowhere else. Otherwise none is
    /// followed.
    pub confined: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and links.
    pub entries: u64,
    /// Devices, which are never made.
    pub skipped: u64,
}

struct Unpacker<'a> {
    folder: BorrowedFd<'a>,
    options: &'a Unpack,
    /// Folders, outermost first: only when all is in them can they become read-only, and keep their times.
    folders: Vec<(PathBuf, Entry)>,
    /// The folder of the last entry.
    parent: Option<(PathBuf, OwnedFd)>,
}

impl Unpack {
    /// Unpacks a stream to its end into a folder. What is there is replaced, but no folder by a file nor a file by a
    /// folder. Unless everything keeps its owner, or stays in a container, programs lose their set-id bits.
    ///
    /// # Errors
    /// [`ArchiveError::Name`] for names that lead elsewhere, and whatever else [`ArchiveError`] knows. What was unpacked
    /// before stays.
    pub fn run(&self, folder: BorrowedFd<'_>, input: impl Read) -> Result<Unpacked, ArchiveError> {
        let mut reader = Reader::new(io::BufReader::with_capacity(BUFFER, input));
        let mut unpacker = Unpacker {
            folder,
            options: self,
            folders: Vec::new(),
            parent: None,
        };
        let mut done = Unpacked::default();
        while let Some(entry) = reader.next_entry()? {
            if matches!(entry.kind, Kind::Character | Kind::Block) {
                done.skipped = done.skipped.saturating_add(1);
                continue;
            }
            unpacker.entry(&entry, &mut reader.data())?;
            done.entries = done.entries.saturating_add(1);
        }
        unpacker.finish()?;
        reader.drain()?;
        Ok(done)
    }
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, contents: &mut dyn Read) -> Result<(), ArchiveError> {
        let path = self.path(&entry.path)?;
        let Some(name) = path.file_name() else {
            // The folder itself, which keeps what it has.
            return Ok(());
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")), &entry.path)?;
        let parent = parent.as_fd();
        match entry.kind {
            Kind::Folder => {
                self.make_folder(parent, name, &entry.path)?;
                self.remember(path, entry)
            }
            Kind::File => {
                clear(parent, name, &entry.path)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let made = fs::openat(parent, name, flags, mode).map_err(file(&entry.path, "making it"))?;
                self.fill(made, entry, contents)
            }
            Kind::HardLink => self.hard_link(parent, name, entry),
            Kind::Symlink | Kind::Fifo => self.special(parent, name, entry),
            Kind::Character | Kind::Block => Ok(()),
        }
    }

    /// A folder gets its mode and time when everything is in it.
    fn remember(&mut self, path: PathBuf, entry: &Entry) -> Result<(), ArchiveError> {
        if self.folders.len() >= FOLDERS {
            return Err(ArchiveError::Crowded {
                path: shown(&entry.path),
                limit: FOLDERS,
            });
        }
        self.folders.push((path, entry.clone()));
        Ok(())
    }

    fn hard_link(&self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        let target = self.path(&entry.link)?;
        let inner = target
            .file_name()
            .ok_or_else(|| refused(&entry.link, "is not the folder itself"))?;
        let from = self.resolve(target.parent().unwrap_or(Path::new("")), &entry.link)?;
        clear(parent, name, &entry.path)?;
        fs::linkat(from, inner, parent, name, AtFlags::empty()).map_err(file(&entry.path, "linking it"))
    }

    /// A symbolic link or a pipe, which have no contents.
    fn special(&self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        clear(parent, name, &entry.path)?;
        if entry.kind == Kind::Fifo {
            let mode = Mode::RUSR | Mode::WUSR;
            fs::mknodat(parent, name, FileType::Fifo, mode, 0).map_err(file(&entry.path, "making it"))?;
        } else {
            fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name)
                .map_err(file(&entry.path, "making the link"))?;
        }
        if let Some((uid, gid)) = self.owner(entry)? {
            fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(file(&entry.path, "giving it to its owner"))?;
        }
        if entry.kind == Kind::Fifo {
            // Nobody else has this name but who may write in this folder.
            fs::chmodat(parent, name, self.mode(entry), AtFlags::empty())
                .map_err(file(&entry.path, "setting its mode"))?;
        }
        fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(file(&entry.path, "setting its time"))
    }

    fn make_folder(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<(), ArchiveError> {
        match fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let follow = if self.options.confined {
                    AtFlags::empty()
                } else {
                    AtFlags::SYMLINK_NOFOLLOW
                };
                let found = fs::statat(parent, name, follow).map_err(file(path, "looking at it"))?;
                if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                    return Ok(());
                }
                Err(ArchiveError::NoFolder { path: shown(path) })
            }
            Err(errno) => Err(file(path, "making the folder")(errno)),
        }
    }

    fn fill(&self, made: OwnedFd, entry: &Entry, contents: &mut dyn Read) -> Result<(), ArchiveError> {
        let mut output = File::from(made);
        let mut buffer = vec![0; BUFFER];
        let mut written = 0_u64;
        loop {
            let count = match contents.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::Stream(error)),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            io::Write::write_all(&mut output, bytes).map_err(file_io(&entry.path, "writing"))?;
            written = written.saturating_add(count as u64);
        }
        if written < entry.size {
            return Err(ArchiveError::Truncated);
        }
        self.dress(&OwnedFd::from(output), entry)
    }

    /// Owner, mode, attributes and times of a file or folder.
    fn dress(&self, made: &OwnedFd, entry: &Entry) -> Result<(), ArchiveError> {
        if let Some((uid, gid)) = self.owner(entry)? {
            fs::fchown(made, Some(uid), Some(gid)).map_err(file(&entry.path, "giving it to its owner"))?;
        }
        fs::fchmod(made, self.mode(entry)).map_err(file(&entry.path, "setting its mode"))?;
        for (name, value) in &entry.xattrs {
            if !is_kept(name) || !(self.is_faithful() || name.starts_with(b"user.")) {
                continue;
            }
            match fs::fsetxattr(made, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // Not every file system has them, nor may everybody set every one.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
                Err(errno) => return Err(file(&entry.path, "setting its attributes")(errno)),
            }
        }
        fs::futimens(made, &times(entry)).map_err(file(&entry.path, "setting its time"))
    }

    fn finish(&mut self) -> Result<(), ArchiveError> {
        while let Some((path, entry)) = self.folders.pop() {
            let opened = self
                .open(&path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(file(&entry.path, "opening"))?;
            self.dress(&opened, &entry)?;
        }
        Ok(())
    }

    fn is_faithful(&self) -> bool {
        self.options.confined || self.options.owner == Owner::AsPacked
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let bits = if self.is_faithful() {
            entry.mode
        } else {
            entry.mode & 0o1777
        };
        Mode::from_raw_mode(bits.into())
    }

    fn owner(&self, entry: &Entry) -> Result<Option<(Uid, Gid)>, ArchiveError> {
        let (uid, gid) = match self.options.owner {
            Owner::Caller => return Ok(None),
            Owner::Root => (0, 0),
            Owner::AsPacked => (entry.uid, entry.gid),
        };
        if uid == u32::MAX || gid == u32::MAX {
            return Err(refused(&entry.path, "has an owner that exists"));
        }
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    /// The name as a path below the folder.
    fn path(&self, name: &[u8]) -> Result<PathBuf, ArchiveError> {
        let mut path = PathBuf::new();
        let mut top = self.options.top.as_deref();
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(refused(name, "does not lead upwards")),
                part => path.push(top.take().unwrap_or(OsStr::from_bytes(part))),
            }
        }
        Ok(path)
    }

    /// The folder that an entry goes into, made if it is missing.
    fn parent(&mut self, path: &Path, name: &[u8]) -> Result<OwnedFd, ArchiveError> {
        let known = self
            .parent
            .as_ref()
            .filter(|(known, _)| known == path && !self.options.confined);
        if let Some((_, folder)) = known {
            return folder.try_clone().map_err(file_io(name, "opening"));
        }
        let folder = self.resolve(path, name)?;
        let again = folder.try_clone().map_err(file_io(name, "opening"))?;
        self.parent = Some((path.to_owned(), again));
        Ok(folder)
    }

    fn resolve(&self, path: &Path, name: &[u8]) -> Result<OwnedFd, ArchiveError> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::XDEV) => return Err(refused(name, "does not lead through a link")),
            outcome => return outcome.map_err(file(name, "opening its folder")),
        }
        let mut grown = PathBuf::new();
        for part in path {
            let parent = self
                .open(&grown, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(file(name, "opening its folder"))?;
            let mode = Mode::from_raw_mode(0o755);
            match fs::mkdirat(parent, part, mode) {
                Ok(()) | Err(Errno::EXIST) => grown.push(part),
                Err(errno) => return Err(file(name, "making its folder")(errno)),
            }
        }
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(file(name, "opening its folder"))
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        if self.options.confined {
            return fs::openat(self.folder, path, flags, Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(self.folder, path, flags, Mode::empty(), resolve)
    }
}

/// Removes what a new file takes the place of.
fn clear(parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<(), ArchiveError> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(ArchiveError::Folder { path: shown(path) }),
        Err(errno) => Err(file(path, "replacing it")(errno)),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let (seconds, nanoseconds) = entry.mtime;
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        },
    }
}

fn refused(path: &[u8], why: &'static str) -> ArchiveError {
    ArchiveError::Name {
        path: shown(path),
        why,
    }
}

/// Opens a folder to unpack into or to pack from; links to it are followed.
///
/// # Errors
/// Those of open(2).
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The last part of a path as bytes that can be a name: `.` for those that end in none.
pub fn last_part(path: &[u8]) -> OsString {
    let part = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
    let is_dotted = path.ends_with(b"/.");
    match part {
        Some(part) if part != b"." && part != b".." && !is_dotted => OsString::from_vec(part.to_vec()),
        _ => ".".into(),
    }
}
