//! Huge pages. A guest sets none aside when it boots, so where a container may have some, its kernel makes them of free memory
//! as they are used, up to the limit of the container's cgroup.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// A folder for each size that the kernel has.
const SIZES: &str = "/sys/kernel/mm/hugepages";
/// How many pages of a size the kernel may make beyond those set aside.
const MORE: &str = "nr_overcommit_hugepages";
/// More than any guest has memory for.
const MANY: &str = "16777216";

/// Has the kernel make pages of the sizes that are limited. One that it lacks, or cannot make, is refused by the cgroup, or
/// whoever uses one is told that there is no memory.
pub fn allow(resources: &Value) {
    let limits = resources.get("hugepageLimits").and_then(Value::as_array);
    for limit in limits.into_iter().flatten() {
        let size = limit.get("pageSize").and_then(Value::as_str);
        let some = limit.get("limit").and_then(Value::as_u64) > Some(0);
        if let Some(kib) = size.and_then(kib).filter(|_| some) {
            let _ = fs::write(
                Path::new(SIZES).join(format!("hugepages-{kib}kB")).join(MORE),
                MANY,
            );
        }
    }
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
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(
            ["64KB", "2MB", "1GB"].map(kib),
            [Some(64), Some(2048), Some(1 << 20)]
        );
        assert_eq!(["2M", "MB", "-1MB", "99999999999999999999GB"].map(kib), [None; 4]);
    }
}
