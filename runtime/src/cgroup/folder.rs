//! A cgroup that is a folder of the tree, made by whoever wants it: the way of engines that manage cgroups themselves.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::TREE;

/// Controllers by which engines count.
const CONTROLLERS: [&str; 4] = ["+cpu", "+memory", "+pids", "+io"];
/// How long the last process of a cgroup may be on its way out.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Where a cgroup of this name is; `None` if it is no name of one.
pub fn path(name: &str) -> Option<PathBuf> {
    let path = Path::new(name.trim_start_matches('/'));
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    (stays && path != Path::new("")).then(|| Path::new(TREE).join(path))
}

/// Makes a cgroup at such a path, and moves this process into it.
pub fn enter(cgroup: &Path) -> io::Result<()> {
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

/// Removes a cgroup, from which the last process may be just on its way out. An engine may have removed it, or have
/// something of its own in it.
pub fn remove(cgroup: &Path) {
    let begun = Instant::now();
    while let Err(error) = fs::remove_dir(cgroup) {
        let passes = matches!(
            error.kind(),
            io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
        );
        if !passes || begun.elapsed() >= LAST_STEPS {
            return;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_folders_of_the_tree() {
        for (name, wanted) in [
            (
                "/libpod_parent/libpod-1",
                Some("/sys/fs/cgroup/libpod_parent/libpod-1"),
            ),
            ("kubepods/pod1/a", Some("/sys/fs/cgroup/kubepods/pod1/a")),
            ("/../etc", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(path(name).as_deref(), wanted.map(Path::new), "{name}");
        }
    }

    #[test]
    fn the_last_process_is_waited_for_and_what_stays_is_not() {
        let cgroup = std::env::temp_dir().join(format!("koya-cgroup-{}", std::process::id()));
        let holder = cgroup.join("process");
        fs::create_dir_all(&holder).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                fs::remove_dir(&holder).unwrap();
            });
            remove(&cgroup);
        });
        assert!(!cgroup.exists());
        fs::create_dir_all(&holder).unwrap();
        let begun = Instant::now();
        remove(&cgroup);
        assert!(holder.exists() && begun.elapsed() < Duration::from_secs(20));
        fs::remove_dir_all(&cgroup).unwrap();
    }
}
