//! Folders of a container that lie beside its overlay, on the scratch disk itself.
//!
//! Container engines keep their images in overlays of their own, and the kernel
//! refuses an overlay whose upper folder is on another one. So a mount of the type
//! `scratch` in config.json, which the OCI runtime specification does not know, is
//! a folder of the disk that takes the container's writes: it stays as they stay,
//! and goes as they go.
//!
//! ```text
//!  scratch disk, container's folder ─┬─ upper, work           the overlay's
//!                                    └─ stores/%2Fvar%2Flib…  bind mounts
//! ```

use std::error::Error;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Component, Path, PathBuf};
use std::thread;

use koya_archive::{ArchiveError, Owner, Unpack, open_folder, pack};
use nix::unistd::syncfs;

use super::idmap::Shift;
use crate::error::{Result, invalid, storage};

/// The type of such mounts.
pub const KIND: &str = "scratch";
/// Mounts of this type of one container: engines know a handful of places.
pub const MAX: usize = 16;
/// Longest path of one, so that it can be a file's name.
const LONGEST: usize = 80;
/// Being filled; no path becomes this name.
const UNFINISHED: &str = "unfinished";

/// The folder that is to be mounted at a path of the container, in the folder `scratch` of its disk. At first it has
/// what the container's root file system has there.
///
/// None if a link is on the way there: whoever made it wants something else.
pub fn folder(scratch: &Path, root: &Path, at: &str, shift: Option<&Shift>) -> Result<Option<PathBuf>> {
    let name = name(at)?;
    let stores = scratch.join("stores");
    let act = || format!("make a folder for '{at}' on the scratch disk");
    let work = || make(&stores, &name, root, at);
    let made = match shift {
        None => work(),
        Some(shift) => shift.as_root(work).map_err(|error| storage(act(), error))?,
    };
    made.map_err(|error| storage(act(), error))
}

/// The name of a path's folder.
fn name(at: &str) -> Result<String> {
    let path = Path::new(at);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !inside || path.file_name().is_none() || at.len() > LONGEST {
        return Err(invalid(format!(
            "a mount of type '{KIND}' has another destination than the absolute path of a folder, without '..' and of at \
             most {LONGEST} bytes"
        )));
    }
    Ok(at.replace('%', "%25").replace('/', "%2F"))
}

fn make(stores: &Path, name: &str, root: &Path, at: &str) -> io::Result<Option<PathBuf>> {
    let place = look(root, at)?;
    if matches!(place, Place::Elsewhere) {
        return Ok(None);
    }
    let folder = stores.join(name);
    if fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
        return Ok(Some(folder));
    }
    let unfinished = stores.join(UNFINISHED);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&unfinished)?;
    if let Place::Folder(path, found) = place {
        if copy(&path, &unfinished).map_err(|error| told(&error))? {
            // Its name says that it is whole, after a power cut, too.
            syncfs(File::open(&unfinished)?.as_raw_fd())?;
        }
        chown(&unfinished, Some(found.uid()), Some(found.gid()))?;
        fs::set_permissions(&unfinished, found.permissions())?;
    }
    fs::rename(&unfinished, &folder)?;
    Ok(Some(folder))
}

/// What a root file system, in which nobody runs yet, has at a path.
enum Place {
    Nothing,
    Folder(PathBuf, Metadata),
    /// A link, here or on the way, or no folder.
    Elsewhere,
}

fn look(root: &Path, at: &str) -> io::Result<Place> {
    let mut path = root.to_path_buf();
    let mut last = None;
    for part in Path::new(at).components() {
        let Component::Normal(part) = part else { continue };
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => last = Some(found),
            Ok(_) => return Ok(Place::Elsewhere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Nothing),
            Err(error) => return Err(error),
        }
    }
    Ok(last.map_or(Place::Elsewhere, |found| Place::Folder(path, found)))
}

fn told(error: &ArchiveError) -> io::Error {
    let cause = error.source().map(|cause| format!(": {cause}"));
    io::Error::other(format!("{error}{}", cause.unwrap_or_default()))
}

/// Copies what is in a folder, if there is anything. Devices, which nobody could use there, are left out.
fn copy(from: &Path, to: &Path) -> std::result::Result<bool, ArchiveError> {
    if fs::read_dir(from).is_ok_and(|mut entries| entries.next().is_none()) {
        return Ok(false);
    }
    let (from, to) = (
        open_folder(from).map_err(ArchiveError::Stream)?,
        open_folder(to).map_err(ArchiveError::Stream)?,
    );
    let (reading, writing) = pipe().map_err(ArchiveError::Stream)?;
    let options = Unpack {
        top: None,
        owner: Owner::AsPacked,
        confined: false,
    };
    thread::scope(|scope| {
        let name = ".".as_ref();
        // Has the file system ids of the thread that starts it.
        let packer = thread::Builder::new()
            .name("copy".to_owned())
            .spawn_scoped(scope, move || pack(from.as_fd(), name, name, false, writing))
            .map_err(ArchiveError::Stream)?;
        let unpacked = options.run(to.as_fd(), reading);
        let packed = packer
            .join()
            .unwrap_or_else(|_| Err(ArchiveError::Stream(io::Error::other("a thread failed"))));
        // Whoever stops reading breaks the pipe: the reason is what he says.
        unpacked?;
        packed.map(|()| true)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Ground(PathBuf);

    impl Ground {
        fn new(name: &str) -> Self {
            let ground = std::env::temp_dir().join(format!("koya-agent-{name}-{}", std::process::id()));
            fs::create_dir_all(ground.join("root")).unwrap();
            Self(ground)
        }

        fn folder(&self, at: &str) -> Result<Option<PathBuf>> {
            folder(&self.0.join("scratch"), &self.0.join("root"), at, None)
        }
    }

    impl Drop for Ground {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_store_begins_with_what_the_image_has_and_then_stays() {
        let ground = Ground::new("stores");
        let image = ground.0.join("root/var/lib/docker");
        fs::create_dir_all(image.join("deep/er")).unwrap();
        fs::write(image.join("deep/er/file"), "from the image").unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o710)).unwrap();
        let store = ground.folder("/var/lib/docker").unwrap().unwrap();
        assert_eq!(
            fs::read_to_string(store.join("deep/er/file")).unwrap(),
            "from the image"
        );
        assert_eq!(fs::metadata(&store).unwrap().mode() & 0o7777, 0o710);
        fs::write(store.join("deep/er/file"), "the container's").unwrap();
        // The next start, after one that broke off.
        fs::create_dir_all(ground.0.join("scratch/stores").join(UNFINISHED).join("half")).unwrap();
        assert_eq!(ground.folder("/var/lib/docker").unwrap(), Some(store.clone()));
        assert_eq!(
            fs::read_to_string(store.join("deep/er/file")).unwrap(),
            "the container's"
        );
        // Where the image has nothing, it is empty; and each path has its own.
        let other = ground.folder("/var/lib/containers/").unwrap().unwrap();
        assert!(fs::read_dir(&other).unwrap().next().is_none());
        assert_ne!(other, ground.folder("/var/lib%2Fcontainers").unwrap().unwrap());
    }

    #[test]
    fn a_link_on_the_way_is_left_alone() {
        let ground = Ground::new("linked-stores");
        std::os::unix::fs::symlink("/etc", ground.0.join("root/var")).unwrap();
        assert_eq!(ground.folder("/var/lib/docker").unwrap(), None);
        fs::write(ground.0.join("root/srv"), "a file").unwrap();
        assert_eq!(ground.folder("/srv").unwrap(), None);
        assert!(!ground.0.join("scratch").exists());
    }

    #[test]
    fn only_a_path_inside_has_a_name() {
        let long = format!("/{}", "a".repeat(LONGEST));
        for bad in ["", "/", "var/lib", "/var/../lib", "/..", &long] {
            assert!(name(bad).unwrap_err().message.contains("destination"), "{bad}");
        }
        assert_eq!(name("/var/100%").unwrap(), "%2Fvar%2F100%25");
    }
}
