//! A container's root file system: a folder that is there, or an overlay of
//! read-only disks with a scratch disk (or memory) for what is written.
//!
//! ```text
//!  BUNDLE/config.json
//!  BUNDLE/rootfs         overlay: lowerdir=l0:l1…, upperdir, workdir
//!  BUNDLE/l0 l1 …        read-only disks, the uppermost first
//!  BUNDLE/scratch        ext4 or tmpfs: upper/, work/ and stores/
//! ```

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use koya_proto::v1::root_filesystem::Source;
use koya_proto::v1::{Disk, Overlay, RootFilesystem};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::disk::mount_disk;
use super::idmap::Shift;
use super::{overlay, stores};
use crate::error::{Result, invalid, storage};

/// A bundle's folder with what is mounted in it; unmounted and removed by
/// [`Bundle::remove`], or when dropped.
pub struct Bundle {
    path: PathBuf,
    mounts: Vec<PathBuf>,
    root: PathBuf,
    /// Where an overlay's writes go.
    scratch: Option<PathBuf>,
    /// The scratch disk's folder that is this bundle's alone, if it has one.
    written: Option<PathBuf>,
    removed: bool,
}

impl Bundle {
    /// Makes the folder and mounts what the root file system needs, with shifted
    /// owners for a container that has a user namespace.
    pub fn make(path: PathBuf, wanted: &RootFilesystem, shift: Option<&Shift>) -> Result<Self> {
        fs::DirBuilder::new()
            // A container's root that is nobody in the guest has to get to its files.
            .mode(if shift.is_some() { 0o711 } else { 0o700 })
            .create(&path)
            .map_err(|error| storage(format!("make the folder {}", path.display()), error))?;
        let mut bundle = Self {
            root: path.join("rootfs"),
            path,
            mounts: Vec::new(),
            scratch: None,
            written: None,
            removed: false,
        };
        match &wanted.source {
            Some(Source::Folder(folder)) => bundle.use_folder(existing(folder)?, shift)?,
            Some(Source::Overlay(overlay)) => bundle.use_overlay(overlay, shift)?,
            _ => return Err(invalid("root is missing; want a folder or an overlay")),
        }
        Ok(bundle)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root file system's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder to mount at a path of the container that is not to be in its overlay; see [`stores`]. None where
    /// there is no overlay, or the path is a link.
    pub fn store(&self, at: &str, shift: Option<&Shift>) -> Result<Option<PathBuf>> {
        match &self.scratch {
            Some(scratch) => stores::folder(scratch, &self.root, at, shift),
            None => Ok(None),
        }
    }

    /// Unmounts everything and removes the folder, with `purge` the one on the
    /// scratch disk, too; can be asked again.
    pub fn remove(&mut self, purge: bool) -> Result<()> {
        while let Some(at) = self.mounts.last() {
            // The overlay, which was mounted after it, has gone.
            if let Some(folder) = self
                .written
                .as_ref()
                .filter(|folder| folder.starts_with(at) && purge)
            {
                remove_written(folder)
                    .map_err(|error| storage(format!("purge the folder {}", folder.display()), error))?;
                self.written = None;
            }
            // Nothing uses it any more, except perhaps for a moment.
            let unmounted = umount2(at, MntFlags::empty()).or_else(|_| umount2(at, MntFlags::MNT_DETACH));
            unmounted.map_err(|errno| storage(format!("unmount {}", at.display()), errno.desc()))?;
            self.mounts.pop();
        }
        if !self.removed {
            // Not below: what failed to unmount must not be emptied.
            remove_folder(&self.path)
                .map_err(|error| storage(format!("remove the folder {}", self.path.display()), error))?;
            self.removed = true;
        }
        Ok(())
    }

    /// Takes a folder as it is, or shifted. One that belongs to the container's root
    /// already was shifted by whoever provides it: not every file system can be here.
    fn use_folder(&mut self, folder: PathBuf, shift: Option<&Shift>) -> Result<()> {
        let owner = fs::metadata(&folder).map(|found| (found.uid(), found.gid()));
        let owner = owner.map_err(|error| storage(format!("look at {}", folder.display()), error))?;
        let Some(shift) = shift.filter(|shift| shift.root != owner) else {
            self.root = folder;
            return Ok(());
        };
        fs::create_dir_all(&self.root).map_err(|error| storage("make the root folder", error))?;
        shift.bind(&folder, &self.root)?;
        self.mounts.push(self.root.clone());
        Ok(())
    }

    fn use_overlay(&mut self, overlay: &Overlay, shift: Option<&Shift>) -> Result<()> {
        overlay::check_layers(overlay.lower.len())?;
        let lower = self.mount_layers(&overlay.lower, shift)?;
        let scratch = self.mount_scratch(overlay)?;
        overlay::make_folders(&scratch)?;
        if let Some(shift) = shift {
            // Not before: root is nobody there from now on.
            shift.apply(&self.path.join("scratch"))?;
        }
        fs::create_dir_all(&self.root).map_err(|error| storage("make the root folder", error))?;
        overlay::mount_over(&lower, &scratch, &self.root, shift)?;
        self.mounts.push(self.root.clone());
        self.scratch = Some(scratch);
        Ok(())
    }

    /// Mounts disks; answers the folders that are meant.
    fn mount_layers(&mut self, disks: &[Disk], shift: Option<&Shift>) -> Result<Vec<PathBuf>> {
        let mut lower = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            let at = self.path.join(format!("l{index}"));
            let folder = mount_disk(disk, &at, true)?;
            self.mounts.push(at.clone());
            if let Some(shift) = shift {
                shift.apply(&at)?;
            }
            lower.push(inside(&folder, &disk.serial)?);
        }
        Ok(lower)
    }

    fn mount_scratch(&mut self, overlay: &Overlay) -> Result<PathBuf> {
        let at = self.path.join("scratch");
        let folder = if let Some(disk) = overlay.scratch.as_ref() {
            let folder = mount_disk(disk, &at, false)?;
            // A disk's root is not removed.
            self.written = (folder != at).then(|| folder.clone());
            folder
        } else {
            fs::create_dir_all(&at).map_err(|error| storage("make the scratch folder", error))?;
            let size = match overlay.tmpfs_bytes {
                0 => CString::from(c"mode=0700"),
                bytes => CString::new(format!("mode=0700,size={bytes}")).unwrap_or_default(),
            };
            mount(
                Some("scratch"),
                &at,
                Some("tmpfs"),
                MsFlags::MS_NODEV,
                Some(size.as_c_str()),
            )
            .map_err(|errno| storage("mount memory for scratch", errno.desc()))?;
            at.clone()
        };
        self.mounts.push(at);
        Ok(folder)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // Of a container that could not be made; the reason is what is told.
        let _ = self.remove(false);
    }
}

fn existing(folder: &str) -> Result<PathBuf> {
    let path = Path::new(folder);
    if path.is_absolute() && path.is_dir() {
        return Ok(path.to_path_buf());
    }
    Err(invalid(format!(
        "root.folder '{folder}' is not there; want the absolute path of a folder in the guest"
    )))
}

/// A folder of a disk, which must be one and not a link that leads elsewhere.
fn inside(folder: &Path, serial: &str) -> Result<PathBuf> {
    match fs::canonicalize(folder) {
        Ok(real) if real == folder && real.is_dir() => Ok(real),
        _ => Err(invalid(format!(
            "'{}' on disk '{serial}' is not a folder",
            folder.display()
        ))),
    }
}

/// Removes a folder with all that is in it, if it is there. No link is followed:
/// not one in it, and not one on the way to it.
fn remove_written(folder: &Path) -> std::io::Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    let removed = fs::canonicalize(parent).and_then(|real| {
        if real == parent {
            return fs::remove_dir_all(folder);
        }
        Err(std::io::Error::other("a link is on the way to it"))
    });
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes a folder that holds files and folders that were mounted on. Nothing
/// with contents below the first level is touched.
fn remove_folder(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_to_be_there() {
        assert_eq!(existing("/usr").unwrap(), Path::new("/usr"));
        assert!(existing("usr").is_err());
        assert!(
            existing("/usr/no-such-folder")
                .unwrap_err()
                .message
                .contains("/usr/no-such-folder")
        );
    }

    #[test]
    fn what_was_written_is_purged_without_following_links() {
        let disk = std::env::temp_dir().join(format!("koya-agent-purge-{}", std::process::id()));
        let (web, shop) = (disk.join("web"), disk.join("shop"));
        for folder in [&web, &shop] {
            fs::create_dir_all(folder.join("upper/etc")).unwrap();
            fs::write(folder.join("upper/etc/note"), "kept").unwrap();
        }
        std::os::unix::fs::symlink(&shop, web.join("upper/link")).unwrap();
        std::os::unix::fs::symlink(&shop, disk.join("alias")).unwrap();
        remove_written(&web).unwrap();
        assert!(!web.exists());
        remove_written(&web).unwrap();
        let error = remove_written(&disk.join("alias/upper")).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        assert_eq!(fs::read_to_string(shop.join("upper/etc/note")).unwrap(), "kept");
        fs::remove_dir_all(&disk).unwrap();
    }

    #[test]
    fn a_bundle_leaves_nothing_behind() {
        let path = std::env::temp_dir().join(format!("koya-agent-bundle-{}", std::process::id()));
        let source = Some(Source::Folder("/usr".to_owned()));
        let wanted = RootFilesystem {
            source,
            ..Default::default()
        };
        let bundle = Bundle::make(path.clone(), &wanted, None).unwrap();
        assert_eq!(bundle.root(), Path::new("/usr"));
        fs::write(bundle.path().join("config.json"), "{}").unwrap();
        drop(bundle);
        assert!(!path.exists());
        assert!(Bundle::make(path.clone(), &RootFilesystem::default(), None).is_err());
        assert!(!path.exists());
    }
}
