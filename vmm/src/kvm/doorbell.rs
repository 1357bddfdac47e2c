//! Virtio doorbells made of ioeventfds.

use std::io;
use std::sync::Arc;

use koya_devices::virtio::Doorbells;
use kvm_ioctls::IoEventAddress;
use vmm_sys_util::eventfd::EventFd;

use super::vm::Vm;

/// The doorbell register of one virtio-mmio device: a 32-bit write of a queue's number signals that queue.
pub struct IoeventfdDoorbells {
    vm: Arc<Vm>,
    address: u64,
}

impl IoeventfdDoorbells {
    /// Doorbells behind the QueueNotify register at guest-physical `address`.
    pub fn new(vm: Arc<Vm>, address: u64) -> Self {
        Self { vm, address }
    }
}

impl Doorbells for IoeventfdDoorbells {
    fn attach(&self, queue: u16, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(self.address);
        Ok(self.vm.fd().register_ioevent(event, &address, u32::from(queue))?)
    }

    fn detach(&self, queue: u16, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(self.address);
        Ok(self
            .vm
            .fd()
            .unregister_ioevent(event, &address, u32::from(queue))?)
    }
}
