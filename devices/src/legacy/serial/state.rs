//! A saved serial port.

use serde::{Deserialize, Serialize};
use vm_superio::SerialState as UartState;

use super::{Serial, Uart};
use crate::state::{RestoreError, Snapshot};

const VERSION: u32 = 1;
const NAME: &str = "serial port";

/// A saved [`Serial`]: the registers of a 16550A, and input the guest has not read.
///
/// Output that waits for a slow sink stays behind: it belongs to the host's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// Format version, 1.
    pub version: u32,
    /// DLL.
    pub baud_divisor_low: u8,
    /// DLM.
    pub baud_divisor_high: u8,
    /// IER.
    pub interrupt_enable: u8,
    /// IIR.
    pub interrupt_identification: u8,
    /// LCR.
    pub line_control: u8,
    /// LSR.
    pub line_status: u8,
    /// MCR.
    pub modem_control: u8,
    /// MSR.
    pub modem_status: u8,
    /// SCR.
    pub scratch: u8,
    /// The receive FIFO, at most 64 bytes.
    pub input: Vec<u8>,
}

impl Snapshot for Serial {
    type State = SerialState;

    fn save(&self) -> SerialState {
        let uart = self.uart.state();
        SerialState {
            version: VERSION,
            baud_divisor_low: uart.baud_divisor_low,
            baud_divisor_high: uart.baud_divisor_high,
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            line_status: uart.line_status,
            modem_control: uart.modem_control,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            input: uart.in_buffer,
        }
    }

    fn restore(&mut self, state: &SerialState) -> Result<(), RestoreError> {
        RestoreError::check_version(NAME, state.version, VERSION)?;
        let uart = UartState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.input.clone(),
        };
        let trigger = self.uart.interrupt_evt().clone();
        let events = self.uart.events().clone();
        let output = self.uart.writer_mut().take();
        self.uart = Uart::from_state(&uart, trigger, events, output).map_err(|error| match error {
            vm_superio::serial::Error::FullFifo => RestoreError::Field {
                device: NAME,
                field: "input",
                expected: "at most 64 bytes long",
            },
            vm_superio::serial::Error::Trigger(source) | vm_superio::serial::Error::IOError(source) => {
                RestoreError::Host { device: NAME, source }
            }
        })?;
        Ok(())
    }
}
