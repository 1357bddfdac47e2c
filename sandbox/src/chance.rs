//! How long a process has had to do something, on a host that may be busy: while it waits for a processor, it had no chance.

use std::fs;
use std::time::{Duration, Instant};

/// How much longer than on a host with processors to spare something may take.
const BUSY: u32 = 10;

/// The time of a process since something began.
pub(crate) struct Chance {
    begun: Instant,
    pid: u32,
}

impl Chance {
    /// From now on, which is when the process begins: what it has waited is counted from there.
    pub fn of(pid: u32) -> Self {
        Self {
            begun: Instant::now(),
            pid,
        }
    }

    /// Whether it has had this long, not counted what its busiest thread waited for a processor. That counts as well in the
    /// end, lest nobody ever gives up.
    pub fn was(&self, patience: Duration) -> bool {
        let elapsed = self.begun.elapsed();
        // Most of the time there is nothing to look up.
        elapsed >= patience
            && (elapsed >= patience.saturating_mul(BUSY)
                || elapsed.saturating_sub(waited(self.pid)) >= patience)
    }
}

/// The longest that any thread of a process has waited to run: the second number of `schedstat`, in nanoseconds. Kernels
/// without it tell of no waiting.
fn waited(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let times = threads.filter_map(|thread| {
        let told = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split_whitespace().nth(1)?.parse().ok()
    });
    Duration::from_nanos(times.max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn time_that_passes_is_a_chance_unless_a_processor_is_missing() {
        let chance = Chance::of(process::id());
        assert!(!chance.was(Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(30));
        assert!(
            chance.was(Duration::from_millis(1)),
            "{:?}",
            waited(process::id())
        );
        // A process that is gone, or a kernel that does not tell.
        let chance = Chance::of(u32::MAX);
        assert!(chance.was(Duration::ZERO) && waited(u32::MAX).is_zero());
    }
}
