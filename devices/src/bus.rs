//! The bus: from an address of the guest to the device that answers there.
//!
//! One type serves both address spaces of a PC, I/O ports and memory-mapped I/O.

use std::sync::{Arc, Mutex, PoisonError};

/// What a device does when the guest reads or writes one of its registers.
///
/// `offset` counts from the start of the device's range. `data` is 1, 2, 4 or 8 bytes long and lies entirely
/// inside the range. A read that the device does not define must leave defined bytes in `data`
/// (it arrives zeroed).
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device on a bus, shared with the event loop.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Why a device could not be put on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or wraps around the end of the address space.
    #[error("a device range of {len:#x} bytes at {base:#x} is empty or wraps around")]
    InvalidRange {
        /// First address of the range.
        base: u64,
        /// Length of the range in bytes.
        len: u64,
    },
    /// The range shares addresses with one that is taken.
    #[error("a device range of {len:#x} bytes at {base:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address of the refused range.
        base: u64,
        /// Length of the refused range in bytes.
        len: u64,
        /// First address of the device that is there.
        other: u64,
    },
}

struct Entry {
    base: u64,
    last: u64,
    device: SharedDevice,
}

/// Devices sorted by address; looked up by binary search.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
}

impl Bus {
    /// Puts `device` at the `len` addresses from `base` on.
    pub fn insert(&mut self, base: u64, len: u64, device: SharedDevice) -> Result<(), BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|extent| base.checked_add(extent))
            .ok_or(BusError::InvalidRange { base, len })?;
        let position = self.entries.partition_point(|entry| entry.last < base);
        if let Some(next) = self.entries.get(position).filter(|next| next.base <= last) {
            return Err(BusError::Overlap {
                base,
                len,
                other: next.base,
            });
        }
        self.entries.insert(position, Entry { base, last, device });
        Ok(())
    }

    /// Lets the device at `address` fill `data`. Zeroes are not enough on a real bus: an address where nobody
    /// answers reads as all ones. Returns whether a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0);
        let answered = self.with_device(address, data.len(), |device, offset| device.read(offset, data));
        if answered.is_none() {
            data.fill(0xff);
        }
        answered.is_some()
    }

    /// Hands `data` to the device at `address`; a write to nobody is dropped. Returns whether a device took it.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        self.with_device(address, data.len(), |device, offset| device.write(offset, data))
            .is_some()
    }

    fn with_device(
        &self,
        address: u64,
        len: usize,
        access: impl FnOnce(&mut dyn BusDevice, u64),
    ) -> Option<()> {
        let position = self.entries.partition_point(|entry| entry.last < address);
        let entry = self.entries.get(position)?;
        let offset = address.checked_sub(entry.base)?;
        let last = address.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        if last > entry.last {
            return None;
        }
        // A device that panicked elsewhere has left its lock poisoned; its registers are still plain data.
        access(
            &mut *entry.device.lock().unwrap_or_else(PoisonError::into_inner),
            offset,
        );
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0);
            data[0] = u8::try_from(offset).unwrap();
        }
        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    fn echo() -> SharedDevice {
        Arc::new(Mutex::new(Echo(7)))
    }

    #[test]
    fn an_access_reaches_the_device_whose_range_holds_it() {
        let mut bus = Bus::default();
        bus.insert(0x2000, 0x100, echo()).unwrap();
        bus.insert(0x1000, 0x100, echo()).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x20fe, &mut data));
        assert_eq!(data, [0xfe, 7]);
        assert!(bus.write(0x1000, &[9]));
        assert!(bus.read(0x1001, &mut data));
        assert_eq!(data, [1, 9]);
    }

    #[test]
    fn an_address_without_a_device_reads_as_ones() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, echo()).unwrap();
        for address in [0, 0xfff, 0x1010, 0x100f, u64::MAX] {
            let mut data = [0; 2];
            assert!(!bus.read(address, &mut data), "{address:#x}");
            assert_eq!(data, [0xff; 2]);
            assert!(!bus.write(address, &data));
        }
        assert!(!bus.read(0x1000, &mut []));
    }

    #[test]
    fn ranges_may_touch_but_not_overlap() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, echo()).unwrap();
        bus.insert(0x1010, 0x10, echo()).unwrap();
        bus.insert(0xff0, 0x10, echo()).unwrap();
        assert_eq!(
            bus.insert(0x101f, 1, echo()),
            Err(BusError::Overlap {
                base: 0x101f,
                len: 1,
                other: 0x1010
            })
        );
        assert!(bus.insert(0, u64::MAX, echo()).is_err());
        assert!(bus.insert(0x5000, 0, echo()).is_err());
        assert!(bus.insert(u64::MAX, 2, echo()).is_err());
    }
}
