//! The sleep control and status registers of hardware-reduced ACPI (ACPI 6.5 §4.8.3.7).

use serde::{Deserialize, Serialize};

use super::MachineRequest;
use crate::bus::BusDevice;
use crate::state::{RestoreError, Snapshot};

/// SLEEP_CONTROL_REG, then SLEEP_STATUS_REG.
const CONTROL: u64 = 0;
/// SLP_EN: write-only, enters the state in SLP_TYP.
const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 7 << SLP_TYP_SHIFT;
/// SLP_TYP of the soft-off state; the `_S5` object of the DSDT must say the same.
const SLP_TYP_S5: u8 = 5;
const VERSION: u32 = 1;
const NAME: &str = "sleep register";

/// Two one-byte registers: control at offset 0, status at offset 1.
///
/// A write of SLP_EN with SLP_TYP 5 asks for power-off. There is no other sleep state, so nothing ever wakes up
/// and the status register reads zero.
pub struct Sleep {
    sleep_type: u8,
    power_off: MachineRequest,
}

/// A saved [`Sleep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SleepState {
    /// Format version, 1.
    pub version: u32,
    /// SLP_TYP as last written, 0 to 7.
    pub sleep_type: u8,
}

impl Sleep {
    /// Length of the device's range in bytes.
    pub const LEN: u64 = 2;

    /// Registers that call `power_off`.
    pub fn new(power_off: MachineRequest) -> Self {
        Self {
            sleep_type: 0,
            power_off,
        }
    }
}

impl BusDevice for Sleep {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (CONTROL, [value]) = (offset, data) {
            *value = self.sleep_type << SLP_TYP_SHIFT;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (CONTROL, [value]) = (offset, data) {
            self.sleep_type = (value & SLP_TYP_MASK) >> SLP_TYP_SHIFT;
            if value & SLP_EN != 0 && self.sleep_type == SLP_TYP_S5 {
                (self.power_off)();
            }
        }
    }
}

impl Snapshot for Sleep {
    type State = SleepState;

    fn save(&self) -> SleepState {
        SleepState {
            version: VERSION,
            sleep_type: self.sleep_type,
        }
    }

    fn restore(&mut self, state: &SleepState) -> Result<(), RestoreError> {
        RestoreError::check_version(NAME, state.version, VERSION)?;
        RestoreError::check(state.sleep_type <= 7, NAME, "sleep_type", "at most 7")?;
        self.sleep_type = state.sleep_type;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn sleep() -> (Sleep, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counter = count.clone();
        let power_off = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (Sleep::new(Arc::new(power_off)), count)
    }

    #[test]
    fn only_sleep_enable_with_type_five_powers_off() {
        let (mut sleep, count) = sleep();
        for value in 0..=u8::MAX {
            sleep.write(0, &[value]);
            let expected = u32::from(value & 0x3c == 0x34);
            assert_eq!(count.swap(0, Ordering::SeqCst), expected, "{value:#x}");
        }
        sleep.write(1, &[0x34]);
        sleep.write(0, &[0x34, 0x34]);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn the_sleep_type_reads_back_and_the_enable_bit_does_not() {
        let (mut sleep, _) = sleep();
        sleep.write(0, &[0x34]);
        let mut data = [0];
        sleep.read(0, &mut data);
        assert_eq!(data, [0x14]);
        let mut status = [0];
        sleep.read(1, &mut status);
        assert_eq!(status, [0]);

        let json = serde_json::to_string(&sleep.save()).unwrap();
        let (mut restored, _) = self::sleep();
        restored.restore(&serde_json::from_str(&json).unwrap()).unwrap();
        restored.read(0, &mut data);
        assert_eq!(data, [0x14]);
        assert!(
            restored
                .restore(&SleepState {
                    version: 1,
                    sleep_type: 8
                })
                .is_err()
        );
        assert!(
            restored
                .restore(&SleepState {
                    version: 2,
                    sleep_type: 0
                })
                .is_err()
        );
    }
}
