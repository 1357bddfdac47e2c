//! Who must have done something by when: any number of deadlines, one timer.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

/// Deadlines in order. Each belongs to an id, which has at most one.
pub(super) struct Deadlines {
    order: BTreeSet<(Instant, u64)>,
    /// Watched edge-triggered and never read: setting it again forgets that it expired.
    timer: TimerFd,
    /// When the timer expires next.
    armed: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            order: BTreeSet::new(),
            timer: TimerFd::new().map_err(io::Error::from)?,
            armed: None,
        })
    }

    /// Becomes readable, once for each time it is armed.
    pub(super) fn fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Gives `id`, which keeps its deadline in `current`, another or none.
    pub(super) fn change(&mut self, id: u64, current: &mut Option<Instant>, new: Option<Instant>) {
        if let Some(old) = current.take() {
            self.order.remove(&(old, id));
        }
        if let Some(new) = new {
            self.order.insert((new, id));
        }
        *current = new;
    }

    /// Takes out the first that is over at `now`.
    pub(super) fn expired(&mut self, now: Instant) -> Option<u64> {
        if self.order.first()?.0 > now {
            return None;
        }
        self.order.pop_first().map(|(_, id)| id)
    }

    pub(super) fn clear(&mut self) {
        self.order.clear();
    }

    /// The timer expired.
    pub(super) fn fired(&mut self) {
        self.armed = None;
    }

    /// Makes the timer expire in time for the first. That it may expire too early costs nothing.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        let Some(&(first, _)) = self.order.first() else {
            return Ok(());
        };
        if self.armed.is_some_and(|armed| armed <= first) {
            return Ok(());
        }
        // Zero would disarm it.
        let wait = first
            .saturating_duration_since(Instant::now())
            .max(Duration::from_nanos(1));
        self.timer.reset(wait, None).map_err(io::Error::from)?;
        self.armed = Some(first);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn they_expire_in_order_and_not_after_they_were_changed() {
        let mut deadlines = Deadlines::new().unwrap();
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let (mut a, mut b, mut c) = (None, None, None);
        deadlines.change(1, &mut a, Some(after(30)));
        deadlines.change(2, &mut b, Some(after(10)));
        deadlines.change(3, &mut c, Some(after(20)));
        deadlines.change(2, &mut b, Some(after(40)));
        deadlines.change(3, &mut c, None);
        assert_eq!(deadlines.expired(after(29)), None);
        assert_eq!(deadlines.expired(after(50)), Some(1));
        assert_eq!(deadlines.expired(after(50)), Some(2));
        assert_eq!(deadlines.expired(after(50)), None);
    }
}
