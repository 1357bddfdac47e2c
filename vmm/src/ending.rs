//! How a guest ends, and how the event loop hears of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::exit::ExitCode;
use crate::vcpu::{Gate, VcpuFault};

/// Why the microVM is over.
#[derive(Debug)]
pub enum Ending {
    /// The guest reset its machine, which for a microVM means: done.
    Reset,
    /// The guest powered off.
    PowerOff,
    /// The guest triple-faulted.
    TripleFault {
        /// On which vCPU.
        vcpu: u8,
    },
    /// KVM cannot go on.
    Fault(Box<VcpuFault>),
    /// A vCPU thread could not be confined to the system calls that it needs; the guest has not run.
    Unconfined(io::Error),
    /// Somebody at the console typed the escape.
    Escape,
    /// A signal asked the process to end.
    Signal(libc::c_int),
}

impl Ending {
    /// The process's exit code: the guest's own endings are a success, everything else is not.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Reset | Self::PowerOff | Self::Escape => ExitCode::Ok,
            Self::TripleFault { .. } | Self::Fault(_) | Self::Unconfined(_) | Self::Signal(_) => {
                ExitCode::GenericError
            }
        }
    }
}

/// The line on which vCPUs and devices announce the guest's end. The first announcement counts.
pub struct EndLine {
    event: EventFd,
    first: Mutex<Option<Ending>>,
    gate: Arc<Gate>,
}

impl EndLine {
    /// A line that also stops the vCPUs behind `gate`.
    pub fn new(gate: Arc<Gate>) -> io::Result<Self> {
        Ok(Self {
            event: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            first: Mutex::new(None),
            gate,
        })
    }

    /// Stops the guest and wakes the event loop.
    pub fn announce(&self, ending: Ending) {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(ending);
        self.gate.stop();
        // Cannot fail: the counter of an event descriptor takes far more additions than there are announcers.
        let _ = self.event.write(1);
    }

    /// The descriptor that becomes readable when the guest has ended.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// The announced end, once.
    pub fn take(&self) -> Option<Ending> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_announcement_counts_and_stops_the_vcpus() {
        let gate = Arc::new(Gate::new(false));
        let line = EndLine::new(gate.clone()).unwrap();
        assert!(line.take().is_none());
        line.announce(Ending::Reset);
        line.announce(Ending::TripleFault { vcpu: 1 });
        assert!(gate.is_stopped());
        assert_eq!(line.event().read().unwrap(), 2);
        assert!(matches!(line.take(), Some(Ending::Reset)));
    }
}
