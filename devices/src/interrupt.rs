//! The wire from a device to the guest's interrupt controller.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line. Each [`trigger`](InterruptLine::trigger) is one rising edge.
///
/// A device holds its line as `Arc<dyn InterruptLine>`; the monitor implements it with an irqfd, so that
/// raising an interrupt is one `write(2)` and never involves a vCPU thread.
pub trait InterruptLine: Send + Sync {
    /// Raises the interrupt once. Several edges may be merged into one if the guest has not yet seen the first.
    fn trigger(&self) -> io::Result<()>;

    /// The event that raises the interrupt whenever it is signalled, for another process that is going to signal it
    /// by itself (vhost-user). `None` if the line is not made of one.
    fn hand_over(&self) -> Option<&EventFd> {
        None
    }
}
