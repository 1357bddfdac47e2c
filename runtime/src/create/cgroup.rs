//! The cgroup of the host that an engine names for a container: the processes behind the microVM are in it, so that what
//! they use is counted there. Limits are the guest's; an engine that sets some on this cgroup limits the microVM with them.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Where the tree of cgroup v2 is.
const TREE: &str = "/sys/fs/cgroup";
/// What a microVM needs of a host.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/kvm", "/dev/net/tun"];
/// Controllers by which engines count.
const CONTROLLERS: [&str; 4] = ["+cpu", "+memory", "+pids", "+io"];

/// Where a cgroup of this name is; `None` if it is no name of one.
pub fn path(name: &str, systemd: bool) -> Option<PathBuf> {
    Some(Path::new(TREE).join(below(name, systemd)?))
}

/// Makes a cgroup at such a path, and moves this process into it. One that forbids devices is left again: rules for the
/// devices of a container are none for the microVM that it is in.
pub fn join(cgroup: &Path) -> io::Result<()> {
    let before = own()?;
    enter(cgroup)?;
    match DEVICES.iter().any(|device| is_forbidden(device)) {
        true => {
            fs::write(before.join("cgroup.procs"), "0")?;
            // An engine may have made it, and want it.
            let _ = fs::remove_dir(cgroup);
            Err(io::Error::other(
                "it, or one above it, forbids devices, which a microVM needs",
            ))
        }
        false => Ok(()),
    }
}

/// Whether the rules of a cgroup forbid a device: the rights to its file are told otherwise.
fn is_forbidden(device: &str) -> bool {
    let opened = File::options().read(true).write(true).open(device);
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// The cgroup of this process.
fn own() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(|path| Path::new(TREE).join(path))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn enter(cgroup: &Path) -> io::Result<()> {
    let mut path = PathBuf::from(TREE);
    let below = cgroup.strip_prefix(TREE).map_err(io::Error::other)?;
    for part in below.components() {
        // A cgroup that holds processes refuses, and then there is nothing to be counted below it.
        for controller in CONTROLLERS {
            let _ = fs::write(path.join("cgroup.subtree_control"), controller);
        }
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::write(path.join("cgroup.procs"), "0")
}

/// Where a cgroup is below the tree: a path, or `SLICE:PREFIX:NAME` as systemd's users write it.
fn below(name: &str, systemd: bool) -> Option<PathBuf> {
    let path = match systemd {
        false => PathBuf::from(name.trim_start_matches('/')),
        true => {
            let mut parts = name.split(':');
            let (slice, prefix, name) = (parts.next()?, parts.next()?, parts.next()?);
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            let unit = match prefix {
                _ if name.ends_with(".slice") => name.to_owned(),
                "" => format!("{name}.scope"),
                prefix => format!("{prefix}-{name}.scope"),
            };
            nested(slice)?.join(unit)
        }
    };
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    (stays && path != Path::new("")).then_some(path)
}

/// `a-b.slice` is in `a.slice`.
fn nested(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::new();
    let mut so_far = String::new();
    for part in name.split('-').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push(format!("{so_far}.slice"));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_folders_of_the_tree() {
        for (name, systemd, wanted) in [
            ("/libpod_parent/libpod-1", false, Some("libpod_parent/libpod-1")),
            (
                "machine.slice:libpod:1",
                true,
                Some("machine.slice/libpod-1.scope"),
            ),
            (
                "user-1000.slice::x",
                true,
                Some("user.slice/user-1000.slice/x.scope"),
            ),
            (":cri:pod", true, Some("system.slice/cri-pod.scope")),
            ("/../etc", false, None),
            ("/", false, None),
            ("no slice", true, None),
        ] {
            assert_eq!(below(name, systemd).as_deref(), wanted.map(Path::new), "{name}");
        }
    }
}
