//! A guest's two clocks, kept in step across a snapshot.
//!
//! kvmclock and the time stamp counter go on while a guest stands still, and no call of KVM reads or sets both. A guest
//! that finds them apart distrusts the counter for good. So they are saved as a pair, and set by each other.

use std::time::SystemTime;

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::state::{TSC, read_msr};
use super::vm::{KvmError, Vm};

/// How often the pair is read; the closest counts.
const ATTEMPTS: u32 = 5;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockState {
    /// kvmclock, in nanoseconds.
    pub nanoseconds: u64,
    /// The time stamp counter of the first vCPU.
    pub tsc: u64,
    /// The host's wall clock, in nanoseconds since 1970.
    pub realtime: u64,
}

impl ClockState {
    /// Reads both, by the first vCPU.
    pub fn save(vm: &Vm, first: &VcpuFd) -> Result<Self, KvmError> {
        let mut closest = None;
        for _ in 0..ATTEMPTS {
            let before = vm.clock()?;
            let tsc = read_msr(first, TSC)?;
            let distance = vm.clock()?.saturating_sub(before);
            if closest.is_none_or(|(known, _)| distance < known) {
                let nanoseconds = before.saturating_add(distance >> 1);
                let realtime = realtime();
                closest = Some((
                    distance,
                    Self {
                        nanoseconds,
                        tsc,
                        realtime,
                    },
                ));
            }
        }
        closest
            .map(|(_, pair)| pair)
            .ok_or(KvmError::Capability("a guest's clock (KVM_GET_CLOCK)"))
    }

    /// Sets kvmclock by the counter of the first vCPU, which goes on from what was saved. If it is to `catch_up`, the time
    /// is added that has passed on the host.
    pub fn restore(&self, vm: &Vm, first: &VcpuFd, catch_up: bool) -> Result<(), KvmError> {
        let now = match first.get_tsc_khz() {
            Ok(khz) => self.at(read_msr(first, TSC)?, khz),
            Err(_) => self.nanoseconds,
        };
        let passed = match catch_up {
            // A wall clock that was set back gives nothing.
            true => realtime().saturating_sub(self.realtime),
            false => 0,
        };
        vm.set_clock(now.saturating_add(passed))
    }

    /// What kvmclock is when the counter, of so many kHz, is `tsc`.
    fn at(&self, tsc: u64, khz: u32) -> u64 {
        let nanoseconds = |cycles: u64| {
            let scaled = u128::from(cycles).saturating_mul(1_000_000);
            u64::try_from(scaled.checked_div(u128::from(khz)).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        match tsc.checked_sub(self.tsc) {
            Some(later) => self.nanoseconds.saturating_add(nanoseconds(later)),
            // The counter is saved a little before the pair.
            None => self
                .nanoseconds
                .saturating_sub(nanoseconds(self.tsc.saturating_sub(tsc))),
        }
    }
}

fn realtime() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_tells_the_time() {
        let pair = ClockState {
            nanoseconds: 5_000_000_000,
            tsc: 10_000,
            realtime: 0,
        };
        let khz = 2_000_000;
        assert_eq!(pair.at(10_000, khz), 5_000_000_000);
        assert_eq!(pair.at(10_000 + 3_000, khz), 5_000_001_500);
        assert_eq!(pair.at(10_000 - 3_000, khz), 4_999_998_500);
        assert_eq!(pair.at(u64::MAX, 0), 5_000_000_000);
        assert_eq!(pair.at(u64::MAX, 1), u64::MAX);
    }
}
