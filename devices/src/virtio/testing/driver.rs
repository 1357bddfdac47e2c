//! The driver's side of the MMIO registers (virtio 1.2 §4.2.3).

use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::MockQueue;
use crate::bus::BusDevice;
use crate::virtio::Doorbells;
use crate::virtio::mmio::F_VERSION_1;
use crate::virtio::mmio::registers::{offset, status};

/// Reads and writes registers as a driver does.
pub struct MockDriver<'a>(pub &'a mut dyn BusDevice);

impl MockDriver<'_> {
    /// Reads a register.
    pub fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.0.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.0.write(offset, &value.to_le_bytes());
    }

    /// The device status.
    pub fn status(&mut self) -> u32 {
        self.read(offset::STATUS)
    }

    /// Adds `bits` to the device status and returns what it is then.
    pub fn add_status(&mut self, bits: u32) -> u32 {
        let value = self.status() | bits;
        self.write(offset::STATUS, value);
        self.status()
    }

    /// Everything the device offers.
    pub fn offered(&mut self) -> u64 {
        let mut half = |select| {
            self.write(offset::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(offset::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Writes the driver's features.
    pub fn choose(&mut self, features: u64) {
        for select in 0..2 {
            self.write(offset::DRIVER_FEATURES_SEL, select);
            let half = (features >> (32 * select)) & 0xffff_ffff;
            self.write(offset::DRIVER_FEATURES, u32::try_from(half).unwrap());
        }
    }

    /// Goes from reset to FEATURES_OK with `features` and VIRTIO_F_VERSION_1; true when the device agreed.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.write(offset::STATUS, 0);
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        self.choose(features | F_VERSION_1);
        self.add_status(status::FEATURES_OK) & status::FEATURES_OK != 0
    }

    /// Configures and enables queue `index`.
    pub fn configure(&mut self, index: u32, queue: &MockQueue) {
        self.write(offset::QUEUE_SEL, index);
        self.write(offset::QUEUE_NUM, queue.size().into());
        for (low, address) in [
            (offset::QUEUE_DESC_LOW, queue.desc_table()),
            (offset::QUEUE_DRIVER_LOW, queue.avail_ring()),
            (offset::QUEUE_DEVICE_LOW, queue.used_ring()),
        ] {
            self.write(low, u32::try_from(address & 0xffff_ffff).unwrap());
            self.write(low + 4, u32::try_from(address >> 32).unwrap());
        }
        self.write(offset::QUEUE_READY, 1);
    }

    /// All the way to DRIVER_OK; returns the status then.
    pub fn start(&mut self, features: u64, queues: &[&MockQueue]) -> u32 {
        assert!(self.negotiate(features));
        for (index, queue) in (0..).zip(queues) {
            self.configure(index, queue);
        }
        self.add_status(status::DRIVER_OK)
    }
}

/// Doorbells that only remember which queues are attached.
#[derive(Debug, Default, Clone)]
pub struct MockDoorbells(Arc<Mutex<Vec<u16>>>);

impl MockDoorbells {
    /// The queues that are attached now.
    pub fn attached(&self) -> Vec<u16> {
        self.0.lock().unwrap().clone()
    }
}

impl Doorbells for MockDoorbells {
    fn attach(&self, queue: u16, _event: &EventFd) -> io::Result<()> {
        self.0.lock().unwrap().push(queue);
        Ok(())
    }

    fn detach(&self, queue: u16, _event: &EventFd) -> io::Result<()> {
        self.0.lock().unwrap().retain(|attached| *attached != queue);
        Ok(())
    }
}
