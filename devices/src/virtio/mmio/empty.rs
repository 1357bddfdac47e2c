//! A place on the bus where no device is yet.

use super::registers::{LAYOUT_VERSION, MAGIC, VENDOR, offset};
use crate::bus::BusDevice;

/// A set of registers without a device behind it: device ID 0, which drivers pass over (virtio 1.2 §4.2.3.1.1).
#[derive(Debug, Default)]
pub struct EmptyWindow;

impl BusDevice for EmptyWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value: u32 = match offset {
            offset::MAGIC_VALUE => MAGIC,
            offset::VERSION => LAYOUT_VERSION,
            offset::VENDOR_ID => VENDOR,
            _ => 0,
        };
        if data.len() == size_of::<u32>() {
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write(&mut self, _: u64, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_registers_and_no_device() {
        let mut window = EmptyWindow;
        window.write(offset::STATUS, &[1, 0, 0, 0]);
        let mut read = |offset, length: usize| {
            let mut data = [0xff; 8];
            window.read(offset, data.get_mut(..length).unwrap());
            u64::from_le_bytes(data)
        };
        let rest = 0xffff_ffff_0000_0000;
        assert_eq!(read(offset::MAGIC_VALUE, 4), rest | u64::from(MAGIC));
        assert_eq!(read(offset::VERSION, 4), rest | 2);
        assert_eq!(read(offset::DEVICE_ID, 4), rest);
        assert_eq!(read(offset::STATUS, 4), rest);
        assert_eq!(read(offset::VERSION, 8), u64::MAX);
        assert_eq!(read(offset::VERSION, 0), u64::MAX);
    }
}
