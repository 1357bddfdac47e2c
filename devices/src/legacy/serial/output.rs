//! Output on its way to the sink: at once if it takes it, from a bounded buffer if it is slow.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::sink::SerialSink;

/// Output kept for a slow sink, in bytes: as much as a pipe holds. What comes on top is dropped, because the
/// alternatives are a vCPU that hangs or memory without bound.
pub(super) const CAPACITY: usize = 64 << 10;

/// Writes to the sink before the guest and the event loop have their turn.
const WRITES_PER_TURN: usize = 64;
/// Bytes added to a buffer between two tries to empty it.
const RETRY_EVERY: usize = 64;

pub(super) struct Output {
    sink: Option<Box<dyn SerialSink>>,
    wake: Arc<EventFd>,
    pending: VecDeque<u8>,
    dropped: u64,
    failed: u64,
}

impl Output {
    pub(super) fn new(sink: Box<dyn SerialSink>, wake: Arc<EventFd>) -> Self {
        Self {
            sink: Some(sink),
            wake,
            pending: VecDeque::new(),
            dropped: 0,
            failed: 0,
        }
    }

    /// Moves the output out, leaving one behind that goes nowhere.
    pub(super) fn take(&mut self) -> Self {
        let nowhere = Self {
            sink: None,
            wake: self.wake.clone(),
            pending: VecDeque::new(),
            dropped: 0,
            failed: 0,
        };
        std::mem::replace(self, nowhere)
    }

    pub(super) fn pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn fd(&self) -> Option<RawFd> {
        self.sink.as_ref().and_then(|sink| sink.fd())
    }

    /// Bytes dropped and bytes refused since the last call.
    pub(super) fn take_losses(&mut self) -> (u64, u64) {
        (
            std::mem::take(&mut self.dropped),
            std::mem::take(&mut self.failed),
        )
    }

    /// Writes what waits, as far as the sink takes it now and a turn allows.
    pub(super) fn flush_pending(&mut self) {
        for _ in 0..WRITES_PER_TURN {
            let len = self.pending.as_slices().0.len();
            if len == 0 {
                // The memory is not needed any more: a slow sink is the exception. What one byte takes stays.
                if self.pending.capacity() > RETRY_EVERY {
                    self.pending = VecDeque::new();
                }
                return;
            }
            let done = self.write_now(len);
            if done == 0 {
                return;
            }
            self.pending.drain(..done.min(len));
        }
    }

    /// Writes from the first `len` bytes that wait; returns how many are done with.
    fn write_now(&mut self, len: usize) -> usize {
        let Some(sink) = self.sink.as_mut() else {
            return len;
        };
        let bytes = self.pending.as_slices().0;
        loop {
            match sink.write_ready(bytes) {
                Ok(written) => return written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                // The reader is gone or the disk is full: there is nobody to keep it for.
                Err(_) => {
                    self.failed = self.failed.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
                    return len;
                }
            }
        }
    }

    /// Writes `byte` at once, or keeps it.
    fn put(&mut self, byte: u8) {
        // The event loop empties the buffer; if there is none, every few bytes do.
        if self.pending.len().is_multiple_of(RETRY_EVERY) {
            self.flush_pending();
        }
        if self.pending.is_empty() {
            self.pending.push_back(byte);
            self.write_byte();
        } else if self.pending.len() < CAPACITY {
            self.pending.push_back(byte);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Tries to write the only byte that waits, and calls the event loop when that fails.
    fn write_byte(&mut self) {
        if self.write_now(1) > 0 {
            self.pending.clear();
        } else {
            // Fails only when the counter is full, and then it is readable already.
            let _ = self.wake.write(1);
        }
    }
}

impl Write for Output {
    /// Never blocks and never fails: losses are counted.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.put(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
