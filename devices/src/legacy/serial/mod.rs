//! Serial port: a 16550A (National Semiconductor PC16550D datasheet) from `vm-superio`, with what a hostile or
//! unlucky world asks for around it.
//!
//! ```text
//!  vCPU ─► uart ─► output (≤ 64 KiB when the sink is slow) ─► sink: terminal, pipe, file
//!           ▲        └─ wake ─► console ─ flush when the sink has room again
//!           └────── FIFO ◄───── console ◄─ standard input, read only while the FIFO has room
//! ```

mod console;
mod output;
mod sink;
mod state;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use vm_superio::Trigger;
use vm_superio::serial::{Error as UartError, SerialEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::output::Output;
use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use crate::state::Metered;
pub use console::{Console, InputFilter};
pub use sink::{FdSink, SerialSink};
pub use state::SerialState;

/// Counters of the serial port.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct SerialMetrics {
    /// Bytes the sink refused for good, and interrupts that could not be raised.
    pub error_count: u64,
    /// Times that buffered output was written because the sink had room again.
    pub flush_count: u64,
    /// Reads of a wrong size.
    pub missed_read_count: u64,
    /// Writes of a wrong size.
    pub missed_write_count: u64,
    /// Register reads.
    pub read_count: u64,
    /// Register writes.
    pub write_count: u64,
    /// Bytes of output lost because the sink was slow and the buffer full.
    pub dropped_bytes: u64,
}

type Uart = vm_superio::Serial<LineTrigger, InputDrained, Output>;

/// A serial port.
pub struct Serial {
    uart: Uart,
    metrics: SerialMetrics,
}

impl Serial {
    /// Length of the device's range in bytes.
    pub const LEN: u64 = 8;

    /// A port that interrupts on `line` and whose output goes to `sink`.
    ///
    /// Fails if the host gives no event.
    pub fn new(line: Arc<dyn InterruptLine>, sink: Box<dyn SerialSink>) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let drained = InputDrained {
            wake: wake.clone(),
            wanted: Arc::default(),
        };
        let uart = Uart::with_events(LineTrigger(line), drained, Output::new(sink, wake));
        Ok(Self {
            uart,
            metrics: SerialMetrics::default(),
        })
    }

    /// Bytes of input that [`enqueue`](Self::enqueue) takes now.
    pub fn input_room(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives input to the guest; returns how many bytes it took.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        match self.uart.enqueue_raw_bytes(input) {
            Ok(taken) => taken,
            Err(UartError::FullFifo) => 0,
            // The bytes are there, only the interrupt is not: the guest finds them at its next look.
            Err(_) => {
                self.count_error();
                input.len()
            }
        }
    }

    /// Signals [`wake_event`](Self::wake_event) once when the guest has read all its input.
    pub fn wake_when_drained(&self) {
        self.uart.events().wanted.store(true, Ordering::SeqCst);
    }

    /// Signalled when the event loop is needed: output is stuck, or input was drained as asked for.
    pub fn wake_event(&self) -> &Arc<EventFd> {
        &self.uart.events().wake
    }

    /// Whether output waits for the sink.
    pub fn output_pending(&self) -> bool {
        self.uart.writer().pending()
    }

    /// The descriptor that becomes writable when the sink has room.
    pub fn sink_fd(&self) -> Option<RawFd> {
        self.uart.writer().fd()
    }

    /// Writes what waits, as far as the sink takes it without blocking.
    pub fn flush(&mut self) {
        self.metrics.flush_count = self.metrics.flush_count.saturating_add(1);
        self.uart.writer_mut().flush_pending();
    }

    fn count_error(&mut self) {
        self.metrics.error_count = self.metrics.error_count.saturating_add(1);
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let (Ok(offset), [value]) = (u8::try_from(offset), data) else {
            self.metrics.missed_read_count = self.metrics.missed_read_count.saturating_add(1);
            return;
        };
        *value = self.uart.read(offset);
        self.metrics.read_count = self.metrics.read_count.saturating_add(1);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(offset), [value]) = (u8::try_from(offset), data) else {
            self.metrics.missed_write_count = self.metrics.missed_write_count.saturating_add(1);
            return;
        };
        if self.uart.write(offset, *value).is_err() {
            self.count_error();
        }
        self.metrics.write_count = self.metrics.write_count.saturating_add(1);
    }
}

impl Metered for Serial {
    type Metrics = SerialMetrics;

    fn metrics(&mut self) -> &mut SerialMetrics {
        let (dropped, failed) = self.uart.writer_mut().take_losses();
        self.metrics.dropped_bytes = self.metrics.dropped_bytes.saturating_add(dropped);
        self.metrics.error_count = self.metrics.error_count.saturating_add(failed);
        &mut self.metrics
    }
}

/// The interrupt line as `vm-superio` wants it.
#[derive(Clone)]
struct LineTrigger(Arc<dyn InterruptLine>);

impl Trigger for LineTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

/// Wakes the event loop when the guest has read all its input, if the loop waits for that.
#[derive(Clone)]
struct InputDrained {
    wake: Arc<EventFd>,
    wanted: Arc<AtomicBool>,
}

impl SerialEvents for InputDrained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then it is readable already.
            let _ = self.wake.write(1);
        }
    }
}

#[cfg(test)]
mod tests;
