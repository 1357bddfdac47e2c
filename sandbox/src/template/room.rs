//! Whether the host has room for a template: it shall take it from nobody.

use std::fs;
use std::path::Path;

use rustix::fs::statvfs;

/// Bytes of a file system that are plenty, however full it is: a template of a small guest takes less than a tenth.
const PLENTY: u64 = 1 << 30;
/// Bytes that a cgroup must have left for making one: a guest that boots, and its memory once more in the page cache.
const MEMORY: u64 = 512 << 20;
/// Where the tree of cgroup v2 is.
const TREE: &str = "/sys/fs/cgroup";

/// Whether there is room in the file system of `folder`, which may be one in memory, and in the cgroup of this process,
/// which may be a container's, for the template of a guest with so many MiB.
pub fn has_room(folder: &Path, memory_mib: u64) -> bool {
    // Linux describes each page of a guest in 64 bytes, which are there from its boot on.
    let described = memory_mib.saturating_mul(1 << 20) / 32;
    let free = statvfs(folder).is_ok_and(|known| {
        let bytes = |blocks: u64| blocks.saturating_mul(known.f_frsize);
        is_enough(
            bytes(known.f_bavail).saturating_sub(described),
            bytes(known.f_blocks),
        )
    });
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
    free && own
        .is_none_or(|own| memory_left(Path::new(TREE), Path::new(own)) >= MEMORY.saturating_add(described))
}

fn is_enough(free: u64, all: u64) -> bool {
    free >= PLENTY || free >= all / 2
}

/// Bytes that the tightest of a cgroup and those above it allows to be used yet. What is not limited is not scarce.
fn memory_left(tree: &Path, own: &Path) -> u64 {
    let number = |path: &Path, name: &str| {
        let text = fs::read_to_string(path.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let left = own.ancestors().filter_map(|cgroup| {
        let path = tree.join(cgroup);
        let most = number(&path, "memory.max")?;
        Some(most.saturating_sub(number(&path, "memory.current")?))
    });
    left.min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_keeps_half_of_itself_or_plenty() {
        assert!(is_enough(2 << 30, 100 << 30) && is_enough(200 << 20, 400 << 20));
        assert!(!is_enough(199 << 20, 400 << 20) && !is_enough(0, 100 << 30));
    }

    #[test]
    fn the_tightest_limit_above_counts() {
        let tree = std::env::temp_dir().join(format!("koya-room-{}", std::process::id()));
        let cgroup = |path: &str, most: &str, now: &str| {
            let path = tree.join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("memory.max"), most).unwrap();
            fs::write(path.join("memory.current"), now).unwrap();
        };
        cgroup("pod", "1000\n", "400\n");
        cgroup("pod/one", "max\n", "100\n");
        cgroup("pod/two", "300\n", "400\n");
        cgroup("free", "max\n", "400\n");
        assert_eq!(memory_left(&tree, Path::new("pod/one")), 600);
        assert_eq!(memory_left(&tree, Path::new("pod/two")), 0);
        assert_eq!(memory_left(&tree, Path::new("free")), u64::MAX);
        assert_eq!(memory_left(&tree, Path::new("")), u64::MAX);
        fs::remove_dir_all(tree).unwrap();
    }
}
