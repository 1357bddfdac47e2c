//! Overlays that engines leave to their runtime: `podman run -v FOLDER:PATH:O` and `--mount type=image`. Their layers lie on
//! the host, so that is where they are mounted, in a mount namespace of the container's own processes there. The guest gets
//! what is mounted as any other folder. With the last of these processes the mounts go.

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{BundleError, Plan};

/// overlayfs's words without a value.
const WORDS: [&str; 2] = ["userxattr", "volatile"];

/// One overlay, by the number of its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlay {
    number: usize,
    /// What overlayfs is told.
    data: String,
}

impl Overlay {
    /// The one for the volume with this number, if its options name layers.
    pub(super) fn of(number: usize, options: &[&str]) -> Option<Self> {
        let is_its = |option: &&&str| option.contains('=') || WORDS.contains(*option);
        let data: Vec<_> = options.iter().filter(is_its).copied().collect();
        let has_layers = data.iter().any(|option| option.starts_with("lowerdir="));
        has_layers.then(|| Self {
            number,
            data: data.join(","),
        })
    }

    /// Whether what is written has somewhere to go.
    pub(super) fn is_writable(&self) -> bool {
        self.data.split(',').any(|option| option.starts_with("upperdir="))
    }
}

impl Plan {
    /// Makes folders in `folder`, which is the container's alone, for the overlays of the bundle.
    ///
    /// # Errors
    /// [`BundleError::Overlay`]
    pub fn place_overlays(&mut self, folder: &Path) -> Result<(), BundleError> {
        for overlay in &self.overlays {
            let Some(volume) = self.volumes.get_mut(overlay.number) else {
                continue;
            };
            volume.source = folder.join(format!("overlay{}", overlay.number));
            let made = DirBuilder::new().mode(0o700).create(&volume.source);
            made.map_err(|source| BundleError::Overlay {
                destination: volume.target.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Mounts the overlays on these folders, for this process, which gets a mount namespace of its own if there are any, and
    /// for those that it forks. It must have one thread.
    ///
    /// # Errors
    /// [`BundleError::Overlay`]
    pub fn mount_overlays(&self) -> Result<(), BundleError> {
        let mut own = false;
        for overlay in &self.overlays {
            let Some(volume) = self.volumes.get(overlay.number) else {
                continue;
            };
            let failed = |source| BundleError::Overlay {
                destination: volume.target.clone(),
                source,
            };
            if !own {
                leave_the_hosts().map_err(failed)?;
                own = true;
            }
            mount_on(&volume.source, overlay, volume.read_only).map_err(failed)?;
        }
        Ok(())
    }
}

/// What is mounted here from now on, the host does not see; what the host unmounts goes here as well.
fn leave_the_hosts() -> io::Result<()> {
    // SAFETY: nothing but mounts is unshared: no memory, no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", follow)?)
}

fn mount_on(place: &Path, overlay: &Overlay, read_only: bool) -> io::Result<()> {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    let data = CString::new(overlay.data.as_str())?;
    Ok(mount("overlay", place, "overlay", flags, &*data)?)
}
