//! The network device as its driver sees it.

use std::io;

use event_manager::EventSet;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::backend::{NetBackend, Offloads};
use super::metrics::{NetMetrics, count};
use super::packet::{MacAddress, has};
use super::rx::{Host, Receiver};
use super::tx::Transmitter;
use super::{RX, TX};
use crate::rate_limiter::{BucketUpdate, RateLimiter};
use crate::state::Metered;
use crate::virtio::device::{ActivateError, Activation, BackendEvent, DeviceFault, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition};

/// Most descriptors of each queue.
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Bytes of `struct virtio_net_config` up to and including `mtu` (virtio 1.2 §5.1.4).
const CONFIG_LEN: usize = 12;
/// Smallest MTU that can be told to a driver (virtio 1.2 §5.1.4.1): the least that IPv4 requires of a network.
const MTU_MIN: u16 = 68;

const BACKEND: u32 = 0;
const RX_TIMER: u32 = 1;
const TX_TIMER: u32 = 2;

const FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_UFO
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_UFO
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX;

/// What a network device is made from, beside its backend.
pub struct NetConfig {
    /// Identifies the device in messages.
    pub id: String,
    /// The guest's address. Without one the driver makes one up, and no frame is refused for its source address.
    pub mac: Option<MacAddress>,
    /// Largest packet that the guest shall send, in bytes without the Ethernet header; at least 68.
    pub mtu: Option<u16>,
    /// Limits what the guest receives.
    pub rx_limiter: RateLimiter,
    /// Limits what the guest sends.
    pub tx_limiter: RateLimiter,
}

/// New limits for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitUpdate {
    /// Bytes, virtio headers included.
    pub bytes: BucketUpdate,
    /// Frames.
    pub ops: BucketUpdate,
}

/// The device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The MTU is too small.
    #[error("an MTU of {0} is too small: it must be at least {MTU_MIN}")]
    Mtu(u16),
}

/// A network device with one pair of queues.
pub struct Net<B> {
    id: String,
    mac: Option<MacAddress>,
    mtu: Option<u16>,
    backend: B,
    rx_limiter: RateLimiter,
    tx_limiter: RateLimiter,
    metrics: NetMetrics,
    reported: bool,
    active: Option<Active>,
}

struct Active {
    receiver: Receiver,
    transmitter: Transmitter,
}

impl<B: NetBackend> Net<B> {
    /// A device that carries its frames over `backend`.
    pub fn new(config: NetConfig, backend: B) -> Result<Self, NetError> {
        if let Some(mtu) = config.mtu {
            check_mtu(mtu)?;
        }
        let NetConfig {
            id,
            mac,
            mtu,
            rx_limiter,
            tx_limiter,
        } = config;
        Ok(Self {
            id,
            mac,
            mtu,
            backend,
            rx_limiter,
            tx_limiter,
            metrics: NetMetrics::default(),
            reported: false,
            active: None,
        })
    }

    /// Identifies the device in messages.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The guest's address, if the host chose one.
    pub fn mac(&self) -> Option<MacAddress> {
        self.mac
    }

    /// The MTU that the guest is told, if the host chose one.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// What carries the frames.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The limiters of receiving and of sending.
    pub fn limiters(&self) -> (&RateLimiter, &RateLimiter) {
        (&self.rx_limiter, &self.tx_limiter)
    }

    /// Changes the limits of a running device: of receiving and of sending, each for bytes and for operations.
    ///
    /// Tell the transport afterwards that what it watches may have changed.
    pub fn update_limits(&mut self, rx: LimitUpdate, tx: LimitUpdate) -> io::Result<()> {
        self.rx_limiter.update(rx.bytes, rx.ops)?;
        self.tx_limiter.update(tx.bytes, tx.ops)
    }

    /// Room that the lists of receive buffers have grown to.
    #[cfg(test)]
    pub(super) fn most_pieces(&self) -> usize {
        self.active
            .as_ref()
            .map_or(0, |active| active.receiver.most_pieces())
    }

    pub(super) fn set_identity(&mut self, mac: Option<MacAddress>, mtu: Option<u16>) {
        (self.mac, self.mtu) = (mac, mtu);
    }

    pub(super) fn set_limiters(&mut self, rx: RateLimiter, tx: RateLimiter) {
        (self.rx_limiter, self.tx_limiter) = (rx, tx);
    }

    /// Makes the event loop look at both queues, whatever was missed: after a restore or a pause.
    pub fn kick(&self) -> Result<(), DeviceFault> {
        let Some(active) = &self.active else { return Ok(()) };
        active.receiver.ring().map_err(fault(RX))?;
        active.transmitter.ring().map_err(fault(TX))
    }

    fn receive(&mut self) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let mut host = Host {
            id: &self.id,
            backend: &mut self.backend,
            limiter: &mut self.rx_limiter,
            metrics: &mut self.metrics,
            reported: &mut self.reported,
        };
        active.receiver.run(&mut host).map_err(fault(RX))
    }

    fn transmit(&mut self) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let mut host = Host {
            id: &self.id,
            backend: &mut self.backend,
            limiter: &mut self.tx_limiter,
            metrics: &mut self.metrics,
            reported: &mut self.reported,
        };
        active.transmitter.run(&mut host).map_err(fault(TX))
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let [a, b, c, d, e, f] = self.mac.unwrap_or_default();
        let [low, high] = self.mtu.unwrap_or_default().to_le_bytes();
        // Neither the status nor the number of queue pairs is offered.
        [a, b, c, d, e, f, 0, 0, 0, 0, low, high]
    }

    fn start(&mut self, activation: Activation) -> Result<Active, ActivateError> {
        let Activation {
            memory,
            queues,
            features,
        } = activation;
        let mut queues = queues.into_iter();
        let mut ready = |index| {
            queues
                .next()
                .filter(ActiveQueue::ready)
                .ok_or(ActivateError::QueueMissing(index))
        };
        let (rx, tx) = (ready(RX)?, ready(TX)?);
        self.backend
            .set_offloads(Offloads::from_features(features))
            .map_err(|source| ActivateError::Backend { features, source })?;
        let (merge, checksum) = (
            has(features, VIRTIO_NET_F_MRG_RXBUF),
            has(features, VIRTIO_NET_F_GUEST_CSUM),
        );
        Ok(Active {
            receiver: Receiver::new(rx, memory, merge, checksum),
            transmitter: Transmitter::new(tx, features, self.mac),
        })
    }
}

fn fault(index: usize) -> impl FnOnce(QueueFault) -> DeviceFault {
    move |source| DeviceFault::Queue { index, source }
}

pub(super) fn check_mtu(mtu: u16) -> Result<(), NetError> {
    if mtu < MTU_MIN {
        Err(NetError::Mtu(mtu))
    } else {
        Ok(())
    }
}

impl<B: NetBackend> VirtioDevice for Net<B> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES
            | u64::from(self.mac.is_some()) << VIRTIO_NET_F_MAC
            | u64::from(self.mtu.is_some()) << VIRTIO_NET_F_MTU
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::config::read(&self.config(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        count(&mut self.metrics.cfg_fails, 1);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        match self.start(activation) {
            Ok(active) => {
                self.active = Some(active);
                Ok(())
            }
            Err(error) => {
                count(&mut self.metrics.activate_fails, 1);
                Err(error)
            }
        }
    }

    fn reset(&mut self) {
        self.active = None;
        // The next driver has not said yet what it accepts. A tap that refuses is gone, and will say so again.
        let _ = self.backend.set_offloads(Offloads::default());
        self.backend.discard();
    }

    fn process_queue(&mut self, index: usize) -> Result<(), DeviceFault> {
        if index == TX {
            count(&mut self.metrics.tx_queue_event_count, 1);
            return self.transmit();
        }
        count(&mut self.metrics.rx_queue_event_count, 1);
        if let Some(active) = &mut self.active {
            active.receiver.on_doorbell().map_err(fault(RX))?;
        }
        self.receive()
    }

    fn queue_positions(&self) -> Vec<QueuePosition> {
        let positions = self
            .active
            .iter()
            .flat_map(|it| [it.receiver.position(), it.transmitter.position()]);
        positions.collect()
    }

    fn backend_events(&self) -> Vec<BackendEvent> {
        let backend = BackendEvent {
            fd: self.backend.fd(),
            // A level would wake the loop for ever while a frame waits for buffers, or after the tap is gone.
            events: EventSet::IN | EventSet::EDGE_TRIGGERED,
            token: BACKEND,
        };
        let timer = |limiter: &RateLimiter, token| {
            limiter.timer().map(|fd| BackendEvent {
                fd,
                events: EventSet::IN,
                token,
            })
        };
        let timers = [
            timer(&self.rx_limiter, RX_TIMER),
            timer(&self.tx_limiter, TX_TIMER),
        ];
        std::iter::once(backend)
            .chain(timers.into_iter().flatten())
            .collect()
    }

    fn process_backend(&mut self, token: u32, _events: EventSet) -> Result<(), DeviceFault> {
        match token {
            BACKEND => {
                count(&mut self.metrics.rx_tap_event_count, 1);
                self.receive()
            }
            RX_TIMER => {
                count(&mut self.metrics.rx_event_rate_limiter_count, 1);
                if self.rx_limiter.process_timer() {
                    self.receive()
                } else {
                    Ok(())
                }
            }
            TX_TIMER => {
                count(&mut self.metrics.tx_rate_limiter_event_count, 1);
                if self.tx_limiter.process_timer() {
                    self.transmit()
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }
}

impl<B: NetBackend> Metered for Net<B> {
    type Metrics = NetMetrics;

    fn metrics(&mut self) -> &mut NetMetrics {
        &mut self.metrics
    }
}
