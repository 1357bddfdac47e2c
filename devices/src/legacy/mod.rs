//! Devices of the PC that Linux expects beside virtio.
//!
//! | device | where a PC has it | what for |
//! |---|---|---|
//! | [`Serial`] | ports 0x3f8–0x3ff, IRQ 4 | console |
//! | [`I8042`] | ports 0x60–0x64, IRQ 1 | reset, Ctrl-Alt-Del |
//! | [`Sleep`] | any two ports | ACPI power-off |
//! | [`IoApic`] | 0xfec0_0000 | which vector each interrupt line becomes |

pub mod i8042;
pub mod ioapic;
pub mod serial;
mod sleep;

use std::sync::Arc;

pub use i8042::I8042;
pub use ioapic::{IoApic, MsiMessage, MsiRouter};
pub use serial::{Console, Serial, SerialSink};
pub use sleep::{Sleep, SleepState};

/// Called when the guest asks the machine for something: to reset it, to switch it off.
///
/// It runs on the vCPU thread that wrote the register, with the device locked: signal an event and return.
pub type MachineRequest = Arc<dyn Fn() + Send + Sync>;
