//! What a process holds in memory beside a guest's memory.

use std::fs;

use crate::bench::BenchError;

/// Resident memory of a process in MiB, without its largest mapping if that is at least `beside` MiB: the guest's.
pub(super) fn resident(pid: &str, beside: Option<u32>) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
    let kib = resident_kib(&text, beside.map(|mib| u64::from(mib).saturating_mul(1024)));
    kib.map(|kib| kib as f64 / 1024.0)
        .ok_or_else(|| BenchError::Output {
            expected: "the mappings of a process, with the guest's memory among them",
            found: text.chars().take(200).collect(),
        })
}

/// From the text of smaps; `None` if there is no guest's memory that was to be left out.
fn resident_kib(smaps: &str, beside: Option<u64>) -> Option<u64> {
    let number = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse()
            .ok()
    };
    let sizes = smaps.lines().filter_map(|line| number(line, "Size:"));
    let resident = smaps.lines().filter_map(|line| number(line, "Rss:"));
    let mappings: Vec<(u64, u64)> = sizes.zip(resident).collect();
    let total = mappings
        .iter()
        .fold(0_u64, |sum, (_, rss)| sum.saturating_add(*rss));
    let Some(least) = beside else {
        return (total > 0).then_some(total);
    };
    let guest = mappings.iter().filter(|(size, _)| *size >= least).max()?;
    Some(total.saturating_sub(guest.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "1000-2000 r-xp 0 00:00 1 /vmm\nSize: 2048 kB\nRss: 1000 kB\nPss: 7 kB\n\
        2000-9000 rw-p 0 00:00 0\nSize: 524288 kB\nRss: 90000 kB\nPss: 90000 kB\n";

    #[test]
    fn the_guests_memory_is_left_out() {
        assert_eq!(resident_kib(SMAPS, Some(512 << 10)), Some(1000));
        assert_eq!(resident_kib(SMAPS, None), Some(91_000));
        assert_eq!(resident_kib(SMAPS, Some(1 << 20)), None);
        assert_eq!(resident_kib("", None), None);
    }
}
