//! What a process holds in memory beside a guest's memory, by `/proc/PID/smaps`.

use std::fs;

use super::BenchError;

/// A process's memory in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Held {
    /// What it has itself.
    pub own: f64,
    /// The guest's.
    pub guest: f64,
}

impl Held {
    /// Itself, which has to have a guest's memory.
    pub fn with_guest(self) -> Result<Self, BenchError> {
        if self.guest > 0.0 {
            return Ok(self);
        }
        Err(BenchError::Output {
            expected: "a guest's memory among a process's mappings",
            found: format!("{:.1} MiB without one", self.own),
        })
    }
}

/// How pages count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pages {
    /// Those that are shared with others in full (Rss).
    Whole,
    /// Those that are shared with others by their share (Pss).
    Proportional,
}

/// What a process holds. A guest's memory is its largest mapping if that is at least `guest_mib` MiB.
pub(super) fn held(pid: &str, guest_mib: u32, pages: Pages) -> Result<Held, BenchError> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
    held_in(&text, guest_mib, pages).ok_or_else(|| BenchError::Output {
        expected: "the mappings of a process",
        found: text.chars().take(200).collect(),
    })
}

/// From the text of smaps; `None` of a process that has ended.
fn held_in(smaps: &str, guest_mib: u32, pages: Pages) -> Option<Held> {
    let number = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse()
            .ok()
    };
    let counted = match pages {
        Pages::Whole => "Rss:",
        Pages::Proportional => "Pss:",
    };
    let sizes = smaps.lines().filter_map(|line| number(line, "Size:"));
    let present = smaps.lines().filter_map(|line| number(line, counted));
    let mappings: Vec<(u64, u64)> = sizes.zip(present).collect();
    let total = mappings
        .iter()
        .fold(0_u64, |sum, (_, present)| sum.saturating_add(*present));
    let least = u64::from(guest_mib).saturating_mul(1024);
    let guest = mappings.iter().filter(|(size, _)| *size >= least).max();
    let guest = guest.map_or(0, |(_, present)| *present);
    let mib = |kib: u64| kib as f64 / 1024.0;
    (total > 0).then_some(Held {
        own: mib(total.saturating_sub(guest)),
        guest: mib(guest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "1000-2000 r-xp 0 00:00 1 /vmm\nSize: 2048 kB\nRss: 1024 kB\nPss: 512 kB\nPss_Dirty: 7 kB\n\
        2000-9000 rw-p 0 00:00 0\nSize: 524288 kB\nRss: 102400 kB\nPss: 51200 kB\n";

    #[test]
    fn the_guests_memory_is_counted_apart() {
        let held = |mib, pages| held_in(SMAPS, mib, pages);
        let (own, guest) = (1.0, 100.0);
        assert_eq!(held(512, Pages::Whole), Some(Held { own, guest }));
        let (own, guest) = (0.5, 50.0);
        assert_eq!(held(512, Pages::Proportional), Some(Held { own, guest }));
        let (own, guest) = (101.0, 0.0);
        assert_eq!(held(1024, Pages::Whole), Some(Held { own, guest }));
        assert!(Held { own, guest }.with_guest().is_err());
        assert_eq!(held_in("", 512, Pages::Whole), None);
    }
}
