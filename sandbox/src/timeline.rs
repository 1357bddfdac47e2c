//! When something happened on the way to a container that runs, told by every process that takes part.

use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What was done by then.
    pub what: String,
    /// Nanoseconds of the host's monotonic clock, which is the same for all processes.
    pub at: u64,
}

/// Moments in the order in which they came.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Mark>>);

impl Timeline {
    /// Notes that something is done.
    pub fn mark(&self, what: &str) {
        let mark = Mark {
            what: what.to_owned(),
            at: now(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    }

    /// What has been noted so far; it is forgotten.
    pub fn take(&self) -> Vec<Mark> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Nanoseconds of the host's monotonic clock.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds
        .unwrap_or_default()
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_order_and_are_told_once() {
        let timeline = Timeline::default();
        timeline.mark("one");
        timeline.mark("two");
        let marks = timeline.take();
        assert_eq!((marks[0].what.as_str(), marks[1].what.as_str()), ("one", "two"));
        assert!(marks[0].at > 0 && marks[0].at <= marks[1].at);
        assert_eq!(timeline.take(), []);
    }
}
