//! The interrupt of one transport: why it was raised (virtio 1.2 §4.2.2, InterruptStatus), and the line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::InterruptLine;

/// InterruptStatus: the device used a buffer.
pub const USED_BUFFER: u32 = 1;
/// InterruptStatus: the device configuration or status changed.
pub const CONFIG_CHANGE: u32 = 2;

/// Shared by the transport and every queue of its device.
///
/// As an [`InterruptLine`] it is the used-buffer notification.
pub struct Interrupt {
    status: AtomicU32,
    line: Arc<dyn InterruptLine>,
    /// Somebody else raises the line for used buffers, past the status.
    handed_over: AtomicBool,
}

impl Interrupt {
    pub(super) fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self {
            status: AtomicU32::new(0),
            line,
            handed_over: AtomicBool::new(false),
        }
    }

    /// The InterruptStatus register.
    ///
    /// Nobody can tell whether a line that was handed over was raised for used buffers, so that it always may have
    /// been: a driver then looks at its queues in vain now and then.
    pub fn status(&self) -> u32 {
        let status = self.status.load(Ordering::SeqCst);
        match self.handed_over.load(Ordering::SeqCst) {
            true => status | USED_BUFFER,
            false => status,
        }
    }

    /// The device is reset: it raises the line by itself again, and there is no reason for an interrupt.
    pub(super) fn reset(&self) {
        self.handed_over.store(false, Ordering::SeqCst);
        self.acknowledge(u32::MAX);
    }

    /// A write of `bits` to the InterruptACK register.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The configuration change notification.
    pub fn config_changed(&self) -> io::Result<()> {
        self.raise(CONFIG_CHANGE)
    }

    /// Sets the reasons that a saved transport had, and raises the line for them: the edge may have been lost.
    pub(super) fn restore(&self, status: u32) -> io::Result<()> {
        self.status.store(status, Ordering::SeqCst);
        if status == 0 { Ok(()) } else { self.line.trigger() }
    }

    fn raise(&self, reason: u32) -> io::Result<()> {
        self.status.fetch_or(reason, Ordering::SeqCst);
        self.line.trigger()
    }
}

impl InterruptLine for Interrupt {
    fn trigger(&self) -> io::Result<()> {
        self.raise(USED_BUFFER)
    }

    fn hand_over(&self) -> Option<&EventFd> {
        let event = self.line.hand_over()?;
        self.handed_over.store(true, Ordering::SeqCst);
        Some(event)
    }
}
