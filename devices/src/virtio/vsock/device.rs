//! The socket device as its driver sees it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use event_manager::EventSet;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::hub::Hub;
use super::metrics::{VsockMetrics, count};
use super::packet::HOST_CID;
use super::rx::Receiver;
use super::socket::Listener;
use super::tx::Transmitter;
use super::{EVENT, RX, TX};
use crate::state::Metered;
use crate::virtio::device::{ActivateError, Activation, BackendEvent, DeviceFault, VirtioDevice};
use crate::virtio::mmio::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition};

/// Most descriptors of each queue.
const QUEUE_SIZES: [u16; 3] = [256, 256, 256];
const HUB: u32 = 0;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (virtio 1.2 §5.10.6.7).
const TRANSPORT_RESET: u32 = 0;
/// How long a driver may take to handle a transport reset before it is told of new connections. Linux ends all that it
/// has by then, new ones included.
const RESET_DEADLINE: Duration = Duration::from_secs(1);

/// What a socket device is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address: from 3 to 2³² - 2.
    pub guest_cid: u32,
    /// Where the device listens for clients. Nothing may be there yet. Connections of the guest to a port go to
    /// this path with `_` and the port behind it.
    pub uds_path: PathBuf,
}

/// The device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The address means something else.
    #[error("{0} cannot be the CID of a guest: it must be from 3 to 4294967294")]
    Cid(u32),
    /// No socket at the path.
    #[error(
        "cannot listen at `{path}`: nothing may be there yet, its folder must exist and be writable, and its name must \
         have at most 107 bytes"
    )]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host has no descriptors left.
    #[error("cannot watch the sockets of `{path}`")]
    Watch {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket device. The name of its listening socket is removed when it is dropped.
pub struct Vsock {
    hub: Hub,
    /// Whether the next driver goes on from a snapshot.
    restored: bool,
    active: Option<Active>,
}

struct Active {
    receiver: Receiver,
    transmitter: Transmitter,
    events: ActiveQueue,
    /// Whether the driver must be told that its connections are gone.
    reset_due: bool,
}

impl Vsock {
    /// A device that listens for clients.
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        let VsockConfig { guest_cid, uds_path } = config;
        check_cid(guest_cid)?;
        let listener = Listener::bind(&uds_path).map_err(|source| VsockError::Listen {
            path: uds_path.clone(),
            source,
        })?;
        let hub = Hub::new(guest_cid, listener).map_err(|source| VsockError::Watch {
            path: uds_path,
            source,
        })?;
        Ok(Self {
            hub,
            restored: false,
            active: None,
        })
    }

    /// The guest's address.
    pub fn guest_cid(&self) -> u32 {
        self.hub.guest_cid
    }

    /// Where the device listens for clients.
    pub fn uds_path(&self) -> &Path {
        self.hub.path()
    }

    /// Removes the name of the listening socket, for a process that ends without dropping the device.
    pub fn remove_name(&mut self) {
        self.hub.listener.remove_name();
    }

    /// Makes the event loop look at all queues, whatever was missed: after a restore or a pause.
    pub fn kick(&self) -> Result<(), DeviceFault> {
        let Some(active) = &self.active else { return Ok(()) };
        active.receiver.ring().map_err(fault(RX))?;
        active.transmitter.ring().map_err(fault(TX))?;
        active.events.ring().map_err(fault(EVENT))
    }

    pub(super) fn set_restored(&mut self, guest_cid: u32) {
        self.hub.guest_cid = guest_cid;
        self.restored = true;
    }

    #[cfg(test)]
    pub(super) fn hub(&mut self) -> &mut Hub {
        &mut self.hub
    }

    fn start(&mut self, activation: Activation) -> Result<Active, ActivateError> {
        let mut queues = activation.queues.into_iter();
        let mut ready = |index| {
            let queue = queues.next().filter(ActiveQueue::ready);
            queue.ok_or(ActivateError::QueueMissing(index))
        };
        Ok(Active {
            receiver: Receiver::new(ready(RX)?),
            transmitter: Transmitter::new(ready(TX)?),
            events: ready(EVENT)?,
            reset_due: std::mem::take(&mut self.restored),
        })
    }

    /// Tells the guest what there is to tell, after whatever may have made it so.
    fn give(&mut self) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if !active.reset_due {
            active.receiver.run(&mut self.hub).map_err(fault(RX))?;
            active.transmitter.resume(&self.hub).map_err(fault(TX))?;
        }
        self.hub.arm();
        Ok(())
    }
}

impl Active {
    /// The driver rang the event queue: it has handled the last event, or there is room for the first.
    fn on_event_doorbell(&mut self, hub: &mut Hub) -> Result<(), QueueFault> {
        if !self.reset_due {
            hub.release();
            return Ok(());
        }
        let memory = std::sync::Arc::clone(self.events.memory());
        // A driver that gives only useless buffers gets its queue emptied and no event.
        for _ in 0..self.events.size() {
            let Some(chain) = self.events.pop(&memory)? else {
                break;
            };
            let head = chain.head_index();
            let mut place = chain.clone().take(1).filter(|first| first.is_write_only());
            let event = TRANSPORT_RESET.to_le_bytes();
            let place = place.find(|first| first.len() as usize >= event.len());
            let written = place.is_some_and(|place| memory.write(&event, place.addr()).is_ok());
            if written {
                // The driver has more buffers here, and gives this one back when it has handled the event.
                self.events.await_more()?;
                self.events.push_used(&[(head, event.len() as u32)])?;
                self.reset_due = false;
                hub.hold(RESET_DEADLINE);
                break;
            }
            self.events.push_used(&[(head, 0)])?;
            count(&mut hub.metrics.ev_queue_event_fails, 1);
        }
        if self.reset_due {
            // For the first buffer of use.
            self.events.enable_notification()?;
        }
        self.events.notify()
    }
}

fn fault(index: usize) -> impl FnOnce(QueueFault) -> DeviceFault {
    move |source| DeviceFault::Queue { index, source }
}

pub(super) fn check_cid(guest_cid: u32) -> Result<(), VsockError> {
    // The last one means "any".
    if u64::from(guest_cid) <= HOST_CID || guest_cid == u32::MAX {
        Err(VsockError::Cid(guest_cid))
    } else {
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_INDIRECT_DESC | F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = u64::from(self.guest_cid()).to_le_bytes();
        crate::virtio::config::read(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        count(&mut self.hub.metrics.cfg_fails, 1);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        match self.start(activation) {
            Ok(active) => {
                if active.reset_due {
                    // The driver is told once its vCPUs run. A bell that cannot ring is rung by the next kick.
                    let _ = active.events.ring();
                }
                self.active = Some(active);
                Ok(())
            }
            Err(error) => {
                count(&mut self.hub.metrics.activate_fails, 1);
                Err(error)
            }
        }
    }

    fn reset(&mut self) {
        self.active = None;
        self.hub.clear();
    }

    fn process_queue(&mut self, index: usize) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        match index {
            RX => count(&mut self.hub.metrics.rx_queue_event_count, 1),
            TX => {
                count(&mut self.hub.metrics.tx_queue_event_count, 1);
                active.transmitter.run(&mut self.hub).map_err(fault(TX))?;
            }
            _ => active.on_event_doorbell(&mut self.hub).map_err(fault(EVENT))?,
        }
        self.give()
    }

    fn queue_positions(&self) -> Vec<QueuePosition> {
        let positions = self.active.iter().flat_map(|active| {
            [
                active.receiver.position(),
                active.transmitter.position(),
                active.events.position(),
            ]
        });
        positions.collect()
    }

    fn backend_events(&self) -> Vec<BackendEvent> {
        vec![BackendEvent {
            fd: self.hub.fd(),
            events: EventSet::IN,
            token: HUB,
        }]
    }

    fn process_backend(&mut self, _token: u32, _events: EventSet) -> Result<(), DeviceFault> {
        if self.active.is_some() {
            self.hub.poll();
        }
        self.give()
    }
}

impl Metered for Vsock {
    type Metrics = VsockMetrics;

    fn metrics(&mut self) -> &mut VsockMetrics {
        &mut self.hub.metrics
    }
}
