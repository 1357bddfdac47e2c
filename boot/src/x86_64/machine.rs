//! What the guest must be told about: the plain description from which every table is made.

use super::layout;

/// A virtio-mmio device: one MMIO slot and one edge-triggered interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Guest-physical address of the slot, inside the MMIO gap.
    pub address: u64,
    /// Length of the slot in bytes.
    pub length: u64,
    /// IOAPIC pin, below [`layout::IOAPIC_PINS`].
    pub gsi: u32,
}

/// A 16550 serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// First of its eight I/O ports.
    pub port: u16,
    /// IOAPIC pin, below [`layout::IOAPIC_PINS`].
    pub irq: u32,
}

impl SerialPort {
    /// The first serial port of a PC.
    pub const COM1: Self = Self {
        port: layout::COM1_PORT,
        irq: layout::COM1_IRQ,
    };
}

/// The machine that the firmware tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Number of vCPUs, 1 to 254; their APIC ids are 0, 1, 2 and so on.
    pub vcpus: u8,
    /// virtio-mmio devices, in the order in which the guest shall find (and name) them.
    pub virtio_mmio: &'a [VirtioMmio],
    /// The serial console, if there is one.
    pub serial: Option<SerialPort>,
    /// Whether there is an i8042 at its usual ports. Without it, ACPI offers no reset register.
    pub i8042: bool,
    /// APIC id of the IOAPIC, different from every vCPU's.
    pub ioapic_id: u8,
}

/// A machine that cannot be described to a guest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MachineError {
    /// The number of vCPUs has no APIC ids.
    #[error("{0} vCPUs: a machine has 1 to 254")]
    Vcpus(u8),
    /// The IOAPIC's id is also a vCPU's.
    #[error("IOAPIC id {id} is a vCPU's APIC id too: with {vcpus} vCPUs it must be {vcpus} or more")]
    IoapicId {
        /// The id that was given.
        id: u8,
        /// The number of vCPUs.
        vcpus: u8,
    },
    /// More devices than interrupt pins.
    #[error("{0} virtio-mmio devices: there are interrupts for {max}", max = layout::VIRTIO_MMIO_SLOTS)]
    TooManyDevices(usize),
    /// A device outside the MMIO gap.
    #[error(
        "virtio-mmio device {index} at {address:#x} is not inside the MMIO gap, {gap:#x} to 4 GiB",
        gap = layout::MMIO_GAP_START
    )]
    DeviceAddress {
        /// Position in the list, from 0.
        index: usize,
        /// The address that was given.
        address: u64,
    },
    /// An interrupt that the IOAPIC does not have.
    #[error("interrupt {0} is not a pin of the IOAPIC: it has 0 to 23")]
    Interrupt(u32),
}

impl Machine<'_> {
    /// Checks what the tables rely on: ids, pins and addresses that their fields can hold.
    pub(super) fn check(&self) -> Result<(), MachineError> {
        if self.vcpus == 0 || self.vcpus == u8::MAX {
            return Err(MachineError::Vcpus(self.vcpus));
        }
        if self.ioapic_id < self.vcpus {
            return Err(MachineError::IoapicId {
                id: self.ioapic_id,
                vcpus: self.vcpus,
            });
        }
        if self.virtio_mmio.len() > layout::VIRTIO_MMIO_SLOTS {
            return Err(MachineError::TooManyDevices(self.virtio_mmio.len()));
        }
        for (index, device) in self.virtio_mmio.iter().enumerate() {
            let end = device.address.checked_add(device.length);
            if device.address < layout::MMIO_GAP_START || end.is_none_or(|end| end > layout::MMIO_GAP_END) {
                let address = device.address;
                return Err(MachineError::DeviceAddress { index, address });
            }
        }
        let interrupts = self.virtio_mmio.iter().map(|device| device.gsi);
        match interrupts
            .chain(self.serial.map(|serial| serial.irq))
            .find(|&irq| irq >= u32::from(layout::IOAPIC_PINS))
        {
            Some(irq) => Err(MachineError::Interrupt(irq)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: VirtioMmio = VirtioMmio {
        address: layout::VIRTIO_MMIO_START,
        length: layout::VIRTIO_MMIO_SLOT_LENGTH,
        gsi: 5,
    };

    fn machine(devices: &[VirtioMmio]) -> Machine<'_> {
        Machine {
            vcpus: 2,
            virtio_mmio: devices,
            serial: Some(SerialPort::COM1),
            i8042: true,
            ioapic_id: 2,
        }
    }

    #[test]
    fn ids_must_be_distinct_and_exist() {
        assert_eq!(machine(&[DEVICE]).check(), Ok(()));
        for vcpus in [0, 255] {
            let refused = Machine {
                vcpus,
                ioapic_id: 255,
                ..machine(&[])
            };
            assert_eq!(refused.check(), Err(MachineError::Vcpus(vcpus)));
        }
        let shared = Machine {
            ioapic_id: 1,
            ..machine(&[])
        };
        assert_eq!(shared.check(), Err(MachineError::IoapicId { id: 1, vcpus: 2 }));
    }

    #[test]
    fn devices_must_fit_gap_and_pins() {
        let low = VirtioMmio {
            address: 0xbfff_f000,
            ..DEVICE
        };
        let long = VirtioMmio {
            length: u64::MAX,
            ..DEVICE
        };
        for (devices, index, address) in [([low, DEVICE], 0, low.address), ([DEVICE, long], 1, long.address)]
        {
            assert_eq!(
                machine(&devices).check(),
                Err(MachineError::DeviceAddress { index, address })
            );
        }
        let pin = VirtioMmio { gsi: 24, ..DEVICE };
        assert_eq!(machine(&[pin]).check(), Err(MachineError::Interrupt(24)));
        assert_eq!(
            machine(&[DEVICE; 20]).check(),
            Err(MachineError::TooManyDevices(20))
        );
        let irq = Machine {
            serial: Some(SerialPort { port: 0x3f8, irq: 99 }),
            ..machine(&[])
        };
        assert_eq!(irq.check(), Err(MachineError::Interrupt(99)));
    }
}
