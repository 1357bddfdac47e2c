//! Interrupt lines made of irqfds.

use std::io;

use koya_devices::InterruptLine;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::vm::{KvmError, Vm};

/// An interrupt line whose edges KVM turns into the MSI that the line's route names, without leaving the kernel.
pub struct IrqfdLine {
    event: EventFd,
}

impl IrqfdLine {
    /// Connects a new line to interrupt `gsi`. As long as the guest has not routed it, edges are lost, as they
    /// are on a masked pin.
    pub fn new(vm: &Vm, gsi: u32) -> Result<Self, KvmError> {
        let event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(|error| KvmError::Ioctl {
            act: "create an event descriptor for an interrupt",
            source: kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EIO)),
        })?;
        vm.fd()
            .register_irqfd(&event, gsi)
            .map_err(KvmError::ioctl("connect an interrupt line"))?;
        Ok(Self { event })
    }
}

impl InterruptLine for IrqfdLine {
    fn trigger(&self) -> io::Result<()> {
        match self.event.write(1) {
            // The counter is full: the guest has an edge pending that it has not seen.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    fn hand_over(&self) -> Option<&EventFd> {
        Some(&self.event)
    }
}
