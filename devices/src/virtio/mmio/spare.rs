//! A place on the bus where no device is yet.

use super::registers::{LAYOUT_VERSION, MAGIC, VENDOR, offset};
use crate::bus::BusDevice;

/// A set of registers without a device behind it, until one comes: device ID 0, which drivers pass over (virtio 1.2
/// §4.2.3.1.1). Nobody tells the guest that one has come; it has to look again.
#[derive(Default)]
pub struct SpareWindow {
    device: Option<Box<dyn BusDevice>>,
}

impl SpareWindow {
    /// Puts the registers of a device here. What the guest wrote before has gone nowhere.
    pub fn plug(&mut self, device: impl BusDevice + 'static) {
        self.device = Some(Box::new(device));
    }
}

impl BusDevice for SpareWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(device) = &mut self.device {
            return device.read(offset, data);
        }
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

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(device) = &mut self.device {
            device.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(window: &mut SpareWindow, offset: u64, length: usize) -> u64 {
        let mut data = [0xff; 8];
        window.read(offset, data.get_mut(..length).unwrap());
        u64::from_le_bytes(data)
    }

    #[test]
    fn there_are_registers_and_no_device() {
        let mut window = SpareWindow::default();
        window.write(offset::STATUS, &[1, 0, 0, 0]);
        let mut read = |offset, length| read(&mut window, offset, length);
        let rest = 0xffff_ffff_0000_0000;
        assert_eq!(read(offset::MAGIC_VALUE, 4), rest | u64::from(MAGIC));
        assert_eq!(read(offset::VERSION, 4), rest | 2);
        assert_eq!(read(offset::DEVICE_ID, 4), rest);
        assert_eq!(read(offset::STATUS, 4), rest);
        assert_eq!(read(offset::VERSION, 8), u64::MAX);
        assert_eq!(read(offset::VERSION, 0), u64::MAX);
    }

    #[test]
    fn a_device_that_comes_answers_from_then_on() {
        /// Answers with what was written last.
        struct Memory(u8);
        impl BusDevice for Memory {
            fn read(&mut self, _: u64, data: &mut [u8]) {
                data.fill(self.0);
            }
            fn write(&mut self, _: u64, data: &[u8]) {
                self.0 = *data.first().unwrap();
            }
        }
        let mut window = SpareWindow::default();
        window.write(offset::STATUS, &[9; 4]);
        window.plug(Memory(2));
        assert_eq!(read(&mut window, offset::DEVICE_ID, 4), 0xffff_ffff_0202_0202);
        window.write(offset::STATUS, &[3; 4]);
        assert_eq!(read(&mut window, offset::STATUS, 4), 0xffff_ffff_0303_0303);
    }
}
