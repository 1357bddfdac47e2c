//! Where vCPU threads wait while the guest is paused.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const STOP: u8 = 2;

/// Whether a vCPU goes on after the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Enter the guest.
    Run,
    /// The guest is over; the thread ends.
    Stop,
}

/// One gate for all vCPUs of a guest. Passing an open gate costs one relaxed load.
pub struct Gate {
    want: AtomicU8,
    waiting: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// A gate that lets the vCPUs through, or holds them from the start.
    pub fn new(paused: bool) -> Self {
        Self {
            want: AtomicU8::new(if paused { PAUSE } else { RUN }),
            waiting: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// Called by a vCPU before it enters the guest; blocks while the guest is paused. `parked` runs once if the
    /// vCPU has to wait.
    pub fn pass(&self, parked: impl FnOnce()) -> Passage {
        match self.want.load(Ordering::Relaxed) {
            RUN => Passage::Run,
            STOP => Passage::Stop,
            _ => self.wait(parked),
        }
    }

    fn wait(&self, parked: impl FnOnce()) -> Passage {
        parked();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = waiting.saturating_add(1);
        self.changed.notify_all();
        while self.want.load(Ordering::Relaxed) == PAUSE {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        *waiting = waiting.saturating_sub(1);
        drop(waiting);
        if self.want.load(Ordering::Relaxed) == STOP {
            Passage::Stop
        } else {
            Passage::Run
        }
    }

    /// Closes the gate; the vCPUs that are in the guest must be kicked out of it. A stopped gate stays stopped.
    pub fn close(&self) {
        self.change(RUN, PAUSE);
    }

    /// Opens the gate again. A stopped gate stays stopped.
    pub fn open(&self) {
        self.change(PAUSE, RUN);
    }

    /// Ends the guest for good.
    pub fn stop(&self) {
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.want.store(STOP, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Makes a gate that was stopped ready for another attempt at a start. Nobody may stand at it.
    pub fn restart(&self) {
        self.change(STOP, RUN);
    }

    /// Whether the guest has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.want.load(Ordering::Relaxed) == STOP
    }

    fn change(&self, from: u8, to: u8) {
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the transition asked for: a pause must not undo a stop.
        let _ = self
            .want
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Waits until `vcpus` threads stand at the gate, at most `timeout`. Returns whether they do.
    pub fn wait_for(&self, vcpus: usize, timeout: Duration) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, _) = self
            .changed
            .wait_timeout_while(waiting, timeout, |waiting| *waiting < vcpus && !self.is_stopped())
            .unwrap_or_else(PoisonError::into_inner);
        *waiting >= vcpus
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_closed_gate_holds_every_vcpu_until_it_opens() {
        let gate = Arc::new(Gate::new(true));
        let vcpus: Vec<_> = (0..3)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || gate.pass(|| {}))
            })
            .collect();
        assert!(gate.wait_for(3, LONG));
        assert!(vcpus.iter().all(|vcpu| !vcpu.is_finished()));
        gate.open();
        for vcpu in vcpus {
            assert_eq!(vcpu.join().unwrap(), Passage::Run);
        }
    }

    #[test]
    fn stop_wins_over_pause_and_resume() {
        let gate = Gate::new(false);
        assert_eq!(gate.pass(|| panic!("an open gate parks nobody")), Passage::Run);
        gate.stop();
        gate.close();
        gate.open();
        assert_eq!(gate.pass(|| {}), Passage::Stop);
        assert!(gate.is_stopped());
        assert!(!gate.wait_for(1, LONG), "nobody is waited for after a stop");
        gate.restart();
        assert_eq!(gate.pass(|| panic!("an open gate parks nobody")), Passage::Run);
    }
}
