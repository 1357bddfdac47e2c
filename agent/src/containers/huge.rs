//! Huge pages. A guest sets none aside when it boots, so where a container may have some, its kernel makes them of free memory
//! as they are used, up to the limit of the container's cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A folder for each size that the kernel has.
const SIZES: &str = "/sys/kernel/mm/hugepages";
/// How many pages of a size the kernel may make beyond those set aside.
const MORE: &str = "nr_overcommit_hugepages";

/// Has the kernel make as many more pages as these limits allow. One of a size that it lacks, or cannot make, is refused by the
/// cgroup, or whoever uses one is told that there is no memory. That there shall be none of a size that it lacks is so without
/// a word: Kubernetes says it of every size of the host.
pub fn allow(resources: &mut Value) {
    let limits = resources.get_mut("hugepageLimits").and_then(Value::as_array_mut);
    let Some(limits) = limits else { return };
    limits.retain(|limit| {
        let bytes = limit.get("limit").and_then(Value::as_u64);
        let kib = limit.get("pageSize").and_then(Value::as_str).and_then(kib);
        let Some((kib, bytes)) = kib.zip(bytes) else {
            return true;
        };
        let folder = Path::new(SIZES).join(format!("hugepages-{kib}kB"));
        if bytes > 0 {
            let _ = add(folder.join(MORE), kib, bytes);
        }
        bytes > 0 || folder.exists()
    });
}

/// Lets the kernel make as many more pages of a size as there are in so many bytes, at most as much as the guest has of memory.
fn add(path: PathBuf, kib: u64, bytes: u64) -> std::io::Result<()> {
    let size = kib.saturating_mul(1024).max(1);
    let memory = nix::sys::sysinfo::sysinfo().map_or(0, |system| system.ram_total());
    let known: u64 = fs::read_to_string(&path)?.trim().parse().unwrap_or_default();
    let more = bytes.min(memory).checked_div(size).unwrap_or_default();
    fs::write(path, known.saturating_add(more).to_string())
}

/// Of a size as the specification writes it: 64KB, 2MB, 1GB.
fn kib(size: &str) -> Option<u64> {
    let units = [("KB", 1), ("MB", 1 << 10), ("GB", 1 << 20)];
    units.into_iter().find_map(|(unit, kib)| {
        let number: u64 = size.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(kib)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_size_that_there_is_not_is_no_limit() {
        let mut resources = serde_json::json!({ "hugepageLimits": [
            { "pageSize": "7KB", "limit": 0 }, { "pageSize": "7KB", "limit": 1 }, { "pageSize": "much", "limit": 0 },
        ] });
        allow(&mut resources);
        let kept = resources["hugepageLimits"].as_array().unwrap();
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert_eq!(kept[0]["limit"], 1);
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(
            ["64KB", "2MB", "1GB"].map(kib),
            [Some(64), Some(2048), Some(1 << 20)]
        );
        assert_eq!(["2M", "MB", "-1MB", "99999999999999999999GB"].map(kib), [None; 4]);
    }
}
