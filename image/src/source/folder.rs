//! A folder of the host as the root file system of an image. The folder may be in somebody else's hands: it is
//! walked by handles, no symbolic link is followed, and other file systems mounted in it are left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::tar::{Entry, Kind};
use crate::{Digest, ImageError, TreeError};

/// Something in the folder.
pub(crate) struct Item {
    pub entry: Entry,
    handle: OwnedFd,
}

/// Walks a folder in the order of its names, parents first.
pub(crate) struct Walk {
    path: PathBuf,
    root: OwnedFd,
    device: u64,
    /// Names relative to the folder that are still to be visited, the next one last.
    pending: Vec<Vec<u8>>,
    /// First names of files with several.
    links: HashMap<u64, Vec<u8>>,
    /// The caller, whose files become root's, if it is not root itself.
    owner: Option<(u32, u32)>,
}

impl Walk {
    pub fn new(path: &Path) -> Result<Self, ImageError> {
        let fault = |error: Errno| ImageError::Open {
            path: path.to_owned(),
            source: error.into(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, path, flags, Mode::empty()).map_err(fault)?;
        let device = fs::fstat(&root).map_err(fault)?.st_dev;
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = (!user.is_root()).then(|| (user.as_raw(), group.as_raw()));
        Ok(Self {
            path: path.to_owned(),
            root,
            device,
            pending: vec![Vec::new()],
            links: HashMap::new(),
            owner,
        })
    }

    /// Where a name is on the host, for messages.
    pub fn host_path(&self, name: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(name))
    }

    /// A digest of everything `stat` says about everything in the folder: it stays the same as long as nothing
    /// changes. Reads no contents.
    pub fn stamp(mut self) -> Result<Digest, ImageError> {
        let mut hash = Sha256::new();
        while let Some(name) = self.pending.pop() {
            let (handle, stat) = self.open(&name)?;
            hash.update(&name);
            hash.update([0]);
            for number in [stat.st_ino, stat.st_dev, stat.st_nlink, stat.st_rdev] {
                hash.update(number.to_le_bytes());
            }
            for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
                hash.update(number.to_le_bytes());
            }
            for number in [stat.st_size, stat.st_mtime, stat.st_ctime] {
                hash.update(number.to_le_bytes());
            }
            hash.update(stat.st_mtime_nsec.to_le_bytes());
            hash.update(stat.st_ctime_nsec.to_le_bytes());
            self.descend(&name, &handle, &stat)?;
        }
        Ok(Digest::finish(hash))
    }

    /// The next file, directory or link; sockets are left out.
    pub fn next(&mut self) -> Result<Option<Item>, ImageError> {
        while let Some(name) = self.pending.pop() {
            let (handle, stat) = self.open(&name)?;
            self.descend(&name, &handle, &stat)?;
            let entry = self.entry(&name, &handle, &stat);
            match entry.map_err(|source| self.fault(&name, source))? {
                Some(entry) => return Ok(Some(Item { entry, handle })),
                None => continue,
            }
        }
        Ok(None)
    }

    fn fault(&self, name: &[u8], source: io::Error) -> ImageError {
        ImageError::Folder {
            path: self.host_path(name),
            source,
        }
    }

    fn open(&self, name: &[u8]) -> Result<(OwnedFd, Stat), ImageError> {
        let opened = || -> io::Result<_> {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let place = if name.is_empty() { b"." } else { name };
            let handle = fs::openat2(&self.root, place, flags, Mode::empty(), within)?;
            let stat = fs::fstat(&handle)?;
            Ok((handle, stat))
        };
        opened().map_err(|source| self.fault(name, source))
    }

    /// Adds what is in a directory of the same file system.
    fn descend(&mut self, name: &[u8], handle: &OwnedFd, stat: &Stat) -> Result<(), ImageError> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || stat.st_dev != self.device {
            return Ok(());
        }
        let list = || -> io::Result<Vec<Vec<u8>>> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = fs::openat(CWD, by_handle(handle), flags, Mode::empty())?;
            let mut names = Vec::new();
            for entry in Dir::new(directory)? {
                let entry = entry?;
                let inner = entry.file_name().to_bytes();
                if !matches!(inner, b"." | b"..") {
                    names.push(if name.is_empty() {
                        inner.to_vec()
                    } else {
                        [name, b"/", inner].concat()
                    });
                }
            }
            Ok(names)
        };
        let mut names = list().map_err(|source| self.fault(name, source))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.pending.append(&mut names);
        Ok(())
    }

    fn entry(&mut self, name: &[u8], handle: &OwnedFd, stat: &Stat) -> io::Result<Option<Entry>> {
        let mut entry = Entry {
            path: name.to_vec(),
            link: Vec::new(),
            kind: Kind::File,
            mode: (stat.st_mode & 0o7777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            ranges: None,
        };
        entry.kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        if let Some((user, group)) = self.owner {
            entry.uid = if entry.uid == user { 0 } else { entry.uid };
            entry.gid = if entry.gid == group { 0 } else { entry.gid };
        }
        if entry.kind != Kind::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                entry.kind = Kind::HardLink;
                entry.link = first.clone();
                return Ok(Some(entry));
            }
            self.links.insert(stat.st_ino, name.to_vec());
        }
        match entry.kind {
            Kind::File => entry.size = u64::try_from(stat.st_size).unwrap_or(0),
            Kind::Symlink => entry.link = fs::readlinkat(handle, c"", Vec::new())?.into_bytes(),
            Kind::Character | Kind::Block => {
                entry.device = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
            }
            _ => {}
        }
        if entry.kind != Kind::Symlink {
            entry.xattrs = xattrs(handle)?;
        }
        Ok(Some(entry))
    }
}

impl Item {
    /// Opens the contents of a regular file.
    pub fn contents(&self) -> io::Result<impl Read> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(
            CWD,
            by_handle(&self.handle),
            flags,
            Mode::empty(),
        )?))
    }

    /// Adds everything but the contents to a digest that stands for the folder.
    pub fn describe(&self, hash: &mut Sha256) {
        let entry = &self.entry;
        let mut text = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        text(&entry.path);
        text(&entry.link);
        for (name, value) in &entry.xattrs {
            text(name);
            text(value);
        }
        hash.update([entry.kind as u8]);
        hash.update(entry.mode.to_le_bytes());
        for number in [
            entry.uid,
            entry.gid,
            entry.mtime.1,
            entry.device.0,
            entry.device.1,
        ] {
            hash.update(number.to_le_bytes());
        }
        hash.update(entry.mtime.0.to_le_bytes());
        hash.update(entry.size.to_le_bytes());
    }
}

/// The file behind a handle, whatever its name is by now.
fn by_handle(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

fn xattrs(handle: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = by_handle(handle);
    let mut names = vec![0; 64 << 10];
    let length = match fs::listxattr(&path, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::NOSYS) => 0,
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut found = Vec::new();
    let mut value = vec![0; 64 << 10];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match fs::getxattr(&path, name, &mut value) {
            Ok(length) => found.push((name.to_vec(), value.get(..length).unwrap_or_default().to_vec())),
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}

/// A folder that the tree refuses, by its name.
pub(crate) fn refused(path: &Path) -> impl Fn(TreeError) -> ImageError {
    move |source| ImageError::FolderTree {
        path: path.to_owned(),
        source,
    }
}
