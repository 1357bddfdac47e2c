//! What the bus sees of a transport.
//!
//! A driver's interrupt handler reads and acknowledges the interrupt status on every interrupt. It must not wait
//! for the event loop, which holds the transport while it serves a queue; neither must a doorbell.

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::MmioTransport;
use super::interrupt::Interrupt;
use super::registers::{QUEUE_NOTIFY, offset};
use crate::bus::BusDevice;
use crate::virtio::config;
use crate::virtio::device::VirtioDevice;

/// A transport shared with the event loop, as a device on the bus.
pub struct MmioWindow<D> {
    transport: Arc<Mutex<MmioTransport<D>>>,
    interrupt: Arc<Interrupt>,
    events: Vec<Arc<EventFd>>,
}

impl<D> MmioWindow<D> {
    /// The window to `transport`.
    pub fn new(transport: Arc<Mutex<MmioTransport<D>>>) -> Self {
        let (interrupt, events) = {
            let transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
            (transport.interrupt.clone(), transport.events.clone())
        };
        Self {
            transport,
            interrupt,
            events,
        }
    }
}

impl<D: VirtioDevice> BusDevice for MmioWindow<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == offset::INTERRUPT_STATUS && data.len() == 4 {
            return config::read(&self.interrupt.status().to_le_bytes(), 0, data);
        }
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            let value = u32::from_le_bytes(bytes);
            match offset {
                offset::INTERRUPT_ACK => return self.interrupt.acknowledge(value),
                QUEUE_NOTIFY if ring(&self.events, value) => return,
                _ => {}
            }
        }
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, data);
    }
}

/// Signals the event of `queue`; false if there is no such queue.
pub(super) fn ring(events: &[Arc<EventFd>], queue: u32) -> bool {
    let Some(event) = usize::try_from(queue).ok().and_then(|queue| events.get(queue)) else {
        return false;
    };
    // Fails only when the counter is full, and then it is readable already.
    let _ = event.write(1);
    true
}
