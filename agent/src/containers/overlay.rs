//! overlayfs: read-only layers below, what is written above.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::idmap::Shift;
use crate::error::{Result, invalid, storage};

/// overlayfs takes up to 500 layers, an image of container tools has up to 127.
const MAX_LAYERS: usize = 128;
/// mount(2)'s options are at most a page.
const MAX_OPTIONS: usize = 4095;

/// Refuses numbers of layers that make no sense, before one is mounted.
pub fn check_layers(count: usize) -> Result<()> {
    if (1..=MAX_LAYERS).contains(&count) {
        return Ok(());
    }
    Err(invalid(format!(
        "root.overlay.lower has {count} disks; want 1 to {MAX_LAYERS}"
    )))
}

/// Makes the folders for what is written, in one of the guest's root.
pub fn make_folders(scratch: &Path) -> Result<()> {
    for folder in [upper(scratch), work(scratch)] {
        fs::create_dir_all(&folder)
            .map_err(|error| storage(format!("make the folder {}", folder.display()), error))?;
    }
    Ok(())
}

/// Mounts layers, the uppermost first, with what is written to them in `scratch`.
pub fn mount_over(lower: &[PathBuf], scratch: &Path, at: &Path, shift: Option<&Shift>) -> Result<()> {
    let options = options(lower, scratch)?;
    let mount_it = || {
        mount(
            Some("overlay"),
            at,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
    };
    let mounted = match shift {
        None => mount_it(),
        Some(shift) => shift
            .as_root(mount_it)
            .map_err(|error| storage("mount the overlay", error))?,
    };
    mounted.map_err(|errno| storage("mount the overlay", errno.desc()))
}

fn upper(scratch: &Path) -> PathBuf {
    scratch.join("upper")
}

fn work(scratch: &Path) -> PathBuf {
    scratch.join("work")
}

fn options(lower: &[PathBuf], scratch: &Path) -> Result<String> {
    let lower: Vec<String> = lower.iter().map(|folder| escaped(folder)).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escaped(&upper(scratch)),
        escaped(&work(scratch))
    );
    if options.len() > MAX_OPTIONS {
        return Err(invalid(
            "root.overlay.lower has too many disks and folders for one mount; use fewer layers",
        ));
    }
    Ok(options)
}

/// A path in overlayfs's options, where some characters have meanings.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for letter in String::from_utf8_lossy(path.as_os_str().as_bytes()).chars() {
        if matches!(letter, '\\' | ':' | ',') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_add_mount_options() {
        assert_eq!(
            escaped(Path::new("/a,upperdir=/b:c\\")),
            "/a\\,upperdir=/b\\:c\\\\"
        );
    }

    #[test]
    fn layers_are_named_in_their_order() {
        let lower = ["/l0".into(), "/l1".into()];
        assert_eq!(
            options(&lower, Path::new("/s")).unwrap(),
            "lowerdir=/l0:/l1,upperdir=/s/upper,workdir=/s/work"
        );
        let many = vec![PathBuf::from("/a-folder-with-a-name-of-forty-characters"); 128];
        assert!(options(&many, Path::new("/s")).is_err());
    }

    #[test]
    fn there_is_a_layer_and_not_too_many() {
        assert!(check_layers(0).unwrap_err().message.contains("1 to 128"));
        check_layers(128).unwrap();
        assert!(check_layers(129).is_err());
    }
}
