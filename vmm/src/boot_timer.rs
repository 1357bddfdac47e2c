//! A register that a guest writes to when it has booted, so that the log tells how long that took.

use koya_devices::BusDevice;

use crate::time;

/// The value that says "booted"; the same as Firecracker's, whose guests write it.
const BOOTED: u8 = 123;

/// The boot timer of `--boot-timer`.
pub struct BootTimer {
    start_us: u64,
    start_cpu_us: u64,
}

impl BootTimer {
    /// Bytes of its window.
    pub const LENGTH: u64 = 0x1000;

    /// A timer that begins now.
    pub fn start() -> Self {
        Self {
            start_us: time::monotonic_us(),
            start_cpu_us: time::cpu_us(),
        }
    }
}

impl BusDevice for BootTimer {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data == [BOOTED] {
            let wall = time::monotonic_us().saturating_sub(self.start_us);
            let cpu = time::cpu_us().saturating_sub(self.start_cpu_us);
            log::info!(
                "Guest-boot-time = {wall:>6} us {} ms, {cpu:>6} CPU us {} CPU ms",
                wall / 1000,
                cpu / 1000
            );
        }
    }
}
