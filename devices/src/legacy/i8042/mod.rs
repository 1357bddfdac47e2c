//! Keyboard controller (Intel 8042 as in the IBM PS/2 technical reference, "Keyboard/Auxiliary Device
//! Controller") with a keyboard that has two uses: resetting the machine, and Ctrl-Alt-Del.
//!
//! ```text
//!  0x64 ─► controller command ─► response ┐
//!  0x60 ─► keyboard command ──► keys ─────┴► 0x60, IRQ 1
//! ```
//!
//! Every command that Linux's probe sends gets its answer at once: each one missing would cost half a second of
//! time-out at boot. There is no auxiliary device (mouse), and the probe for it fails as quickly.

mod keyboard;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::keyboard::Keyboard;
use super::MachineRequest;
use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use crate::state::{Metered, RestoreError, Snapshot};
pub use keyboard::KeyboardState;

/// Ports 0x60, 0x61 and 0x64.
const DATA: u64 = 0;
const PORT_B: u64 = 1;
const COMMAND: u64 = 4;

/// Port 0x61, bit 5: output of timer channel 2. It is not there; a Linux that calibrates its clock with it spins
/// until the bit is set, and then notices that the result is nonsense.
const PORT_B_TIMER_OUT: u8 = 0x20;

/// Status: a byte waits at port 0x60.
const STATUS_OUTPUT_FULL: u8 = 0x01;
/// Status: self test passed.
const STATUS_SYSTEM: u8 = 0x04;
/// Status: the last write was a command.
const STATUS_COMMAND: u8 = 0x08;
/// Status: the keyboard is not locked.
const STATUS_UNLOCKED: u8 = 0x10;

/// Command byte: IRQ 1 enabled.
const CTR_KEYBOARD_INTERRUPT: u8 = 0x01;
/// Command byte: self test passed.
const CTR_SYSTEM: u8 = 0x04;
/// Command byte: keyboard disabled.
const CTR_KEYBOARD_OFF: u8 = 0x10;
/// Command byte: auxiliary device disabled.
const CTR_AUX_OFF: u8 = 0x20;
/// Command byte: scan codes are translated to set 1.
const CTR_TRANSLATE: u8 = 0x40;

/// Output port: the processor is not held in reset.
const OUTPUT_NOT_RESET: u8 = 0x01;

const VERSION: u32 = 1;
const NAME: &str = "keyboard controller";

/// Ctrl-Alt-Del could not be typed.
#[derive(Debug, thiserror::Error)]
pub enum I8042Error {
    /// The guest does not read what was typed before.
    #[error("the keyboard's buffer is full because the guest does not read it")]
    BufferFull,
    /// The interrupt could not be raised.
    #[error("cannot raise the keyboard interrupt")]
    Interrupt(#[source] io::Error),
}

/// Counters of the keyboard controller.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct I8042Metrics {
    /// Interrupts that could not be raised.
    pub error_count: u64,
    /// Reads of a wrong size or at a port without a register.
    pub missed_read_count: u64,
    /// Writes of a wrong size or at a port without a register.
    pub missed_write_count: u64,
    /// Bytes read.
    pub read_count: u64,
    /// Resets that the guest asked for.
    pub reset_count: u64,
    /// Bytes written.
    pub write_count: u64,
}

/// A saved [`I8042`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042State {
    /// Format version, 1.
    pub version: u32,
    /// The command byte.
    pub control: u8,
    /// The output port.
    pub output_port: u8,
    /// A command whose parameter is still to come.
    pub command: Option<u8>,
    /// The controller's answer, not yet read.
    pub response: Option<u8>,
    /// The keyboard.
    pub keyboard: KeyboardState,
}

/// The keyboard controller.
pub struct I8042 {
    control: u8,
    output_port: u8,
    command: Option<u8>,
    response: Option<u8>,
    keyboard: Keyboard,
    line: Arc<dyn InterruptLine>,
    reset: MachineRequest,
    metrics: I8042Metrics,
}

impl I8042 {
    /// First port.
    pub const BASE: u64 = 0x60;
    /// Length of the device's range in bytes.
    pub const LEN: u64 = 5;

    /// A controller on IRQ 1 (`line`) that calls `reset` when the guest pulls the processor's reset line.
    pub fn new(line: Arc<dyn InterruptLine>, reset: MachineRequest) -> Self {
        Self {
            control: CTR_KEYBOARD_INTERRUPT | CTR_SYSTEM,
            output_port: OUTPUT_NOT_RESET,
            command: None,
            response: None,
            keyboard: Keyboard::default(),
            line,
            reset,
            metrics: I8042Metrics::default(),
        }
    }

    /// Types Ctrl-Alt-Del. What the guest does then is its own business: an init usually reboots cleanly.
    pub fn trigger_ctrl_alt_del(&mut self) -> Result<(), I8042Error> {
        if !self.keyboard.type_ctrl_alt_del(self.control & CTR_TRANSLATE != 0) {
            return Err(I8042Error::BufferFull);
        }
        self.interrupt().map_err(I8042Error::Interrupt)
    }

    fn keyboard_ready(&self) -> bool {
        self.control & CTR_KEYBOARD_OFF == 0 && !self.keyboard.is_empty()
    }

    fn status(&self) -> u8 {
        let full = if self.response.is_some() || self.keyboard_ready() {
            STATUS_OUTPUT_FULL
        } else {
            0
        };
        let command = if self.command.is_some() { STATUS_COMMAND } else { 0 };
        full | command | STATUS_SYSTEM | STATUS_UNLOCKED
    }

    /// One interrupt for each byte of the keyboard that waits.
    fn interrupt(&self) -> io::Result<()> {
        let wanted = self.control & CTR_KEYBOARD_INTERRUPT != 0 && self.keyboard_ready();
        if wanted { self.line.trigger() } else { Ok(()) }
    }

    fn interrupt_or_count(&mut self) {
        if self.interrupt().is_err() {
            self.metrics.error_count = self.metrics.error_count.saturating_add(1);
        }
    }

    fn read_data(&mut self) -> u8 {
        if let Some(response) = self.response.take() {
            self.interrupt_or_count();
            return response;
        }
        if !self.keyboard_ready() {
            return 0;
        }
        let key = self.keyboard.pop();
        self.interrupt_or_count();
        key
    }

    fn write_data(&mut self, value: u8) {
        match self.command.take() {
            None => {
                self.control &= !CTR_KEYBOARD_OFF;
                self.keyboard.command(value);
                self.interrupt_or_count();
            }
            Some(0x60) => {
                self.control = value;
                self.interrupt_or_count();
            }
            Some(0xd1) => self.write_output_port(value),
            // Echo as if it came from the keyboard.
            Some(0xd2) => {
                self.keyboard.push(&[value]);
                self.interrupt_or_count();
            }
            // 0xd3 would echo as if it came from the auxiliary device: the answer comes without its mark.
            Some(0xd3) => self.response = Some(value),
            // 0xd4 would go to the auxiliary device.
            Some(_) => {}
        }
    }

    fn write_command(&mut self, value: u8) {
        self.command = None;
        match value {
            0x20 => self.response = Some(self.control),
            0x60 | 0xd1 | 0xd2 | 0xd3 | 0xd4 => self.command = Some(value),
            0xa7 | 0xa8 => self.control |= CTR_AUX_OFF,
            // Test of the auxiliary port: its clock line is stuck.
            0xa9 => self.response = Some(0x01),
            // Self test.
            0xaa => self.response = Some(0x55),
            // Test of the keyboard port.
            0xab => self.response = Some(0x00),
            0xad => self.control |= CTR_KEYBOARD_OFF,
            0xae => {
                self.control &= !CTR_KEYBOARD_OFF;
                self.interrupt_or_count();
            }
            // Input port: keyboard not locked.
            0xc0 => self.response = Some(0x80),
            0xd0 => self.response = Some(self.output_port),
            // Pulse the output lines whose bits are zero; bit 0 is the processor's reset.
            0xf0..=0xff if value & OUTPUT_NOT_RESET == 0 => self.reset(),
            _ => {}
        }
    }

    fn write_output_port(&mut self, value: u8) {
        self.output_port = value;
        if value & OUTPUT_NOT_RESET == 0 {
            self.output_port |= OUTPUT_NOT_RESET;
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.metrics.reset_count = self.metrics.reset_count.saturating_add(1);
        (self.reset)();
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match (offset, &data) {
            (DATA, [_]) => self.read_data(),
            (PORT_B, [_]) => PORT_B_TIMER_OUT,
            (COMMAND, [_]) => self.status(),
            _ => {
                self.metrics.missed_read_count = self.metrics.missed_read_count.saturating_add(1);
                return;
            }
        };
        self.metrics.read_count = self.metrics.read_count.saturating_add(1);
        data.fill(value);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (DATA, [value]) => self.write_data(*value),
            (COMMAND, [value]) => self.write_command(*value),
            // The speaker's gate.
            (PORT_B, [_]) => {}
            _ => {
                self.metrics.missed_write_count = self.metrics.missed_write_count.saturating_add(1);
                return;
            }
        }
        self.metrics.write_count = self.metrics.write_count.saturating_add(1);
    }
}

impl Metered for I8042 {
    type Metrics = I8042Metrics;

    fn metrics(&mut self) -> &mut I8042Metrics {
        &mut self.metrics
    }
}

impl Snapshot for I8042 {
    type State = I8042State;

    fn save(&self) -> I8042State {
        I8042State {
            version: VERSION,
            control: self.control,
            output_port: self.output_port,
            command: self.command,
            response: self.response,
            keyboard: self.keyboard.save(),
        }
    }

    fn restore(&mut self, state: &I8042State) -> Result<(), RestoreError> {
        RestoreError::check_version(NAME, state.version, VERSION)?;
        self.keyboard = Keyboard::restore(&state.keyboard)?;
        self.control = state.control;
        self.output_port = state.output_port;
        self.command = state.command;
        self.response = state.response;
        self.interrupt()
            .map_err(|source| RestoreError::Host { device: NAME, source })
    }
}

#[cfg(test)]
mod tests;
