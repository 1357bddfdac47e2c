//! The disk as its guest sees it.

use std::os::fd::AsRawFd;

use event_manager::EventSet;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::QUEUE_SIZE;
use super::active::Active;
use super::backend::BlockBackend;
use super::config;
use super::engine::{Engine, count};
use super::error::BlockError;
use super::metrics::BlockMetrics;
use super::request::Limits;
use super::serial::serial;
use crate::rate_limiter::{BucketUpdate, RateLimiter};
use crate::state::Metered;
use crate::virtio::config::read as read_config;
use crate::virtio::queue::{ActiveQueue, QueueFault, QueuePosition};
use crate::virtio::{ActivateError, Activation, BackendEvent, DeviceFault, VirtioDevice};

/// Device type of a disk (virtio 1.2 §5).
const TYPE_BLOCK: u32 = 2;
const QUEUE_SIZES: [u16; 1] = [QUEUE_SIZE];

const TOKEN_LIMITER: u32 = 0;
const TOKEN_COMPLETION: u32 = 1;

/// What a guest's flush means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CacheMode {
    /// Flushes are not offered: fast, and what the guest wrote last is lost when the host crashes. Firecracker's
    /// default.
    #[default]
    Unsafe,
    /// Flushes are offered, and wait until the host's storage has the data.
    Writeback,
}

/// How a disk is set up, apart from its bytes.
#[derive(Debug, Default)]
pub struct BlockConfig {
    /// Id of the drive; the guest sees it as the [serial number](serial()).
    pub id: String,
    /// What a flush means.
    pub cache: CacheMode,
    /// Limits on bytes and requests.
    pub rate_limiter: RateLimiter,
}

/// A virtio disk.
pub struct Block {
    engine: Engine,
    cache: CacheMode,
    /// Signalled by an asynchronous backend, of which it outlives any number.
    completion: Option<EventFd>,
    active: Option<Active>,
}

impl Block {
    /// A disk whose bytes are in `backend`; read-only if that is.
    ///
    /// Fails if an asynchronous backend cannot be connected to its event.
    pub fn new(config: BlockConfig, mut backend: Box<dyn BlockBackend>) -> Result<Self, BlockError> {
        let limits = Limits {
            sectors: backend.sectors(),
            read_only: backend.read_only(),
        };
        let mut completion = None;
        connect(&mut completion, backend.as_mut())?;
        let engine = Engine {
            serial: serial(&config.id),
            id: config.id,
            backend,
            limits,
            limiter: config.rate_limiter,
            metrics: BlockMetrics::default(),
            reporter: Default::default(),
            durable: false,
            parser: Default::default(),
            flights: Default::default(),
            spare: Vec::new(),
        };
        Ok(Self {
            engine,
            cache: config.cache,
            completion,
            active: None,
        })
    }

    /// Puts another disk in the place of this one, while the guest runs. What is in flight goes to the old one.
    ///
    /// The size may change: the transport must then tell the driver of a changed configuration. If the new backend
    /// is the first asynchronous one, [`backend_events`](VirtioDevice::backend_events) grows. After an error the old
    /// disk is still there.
    pub fn replace_backend(&mut self, mut backend: Box<dyn BlockBackend>) -> Result<(), BlockError> {
        let result = self.try_replace(backend.as_mut());
        let metrics = &mut self.engine.metrics;
        match result {
            Ok(()) => count(&mut metrics.update_count, 1),
            Err(_) => count(&mut metrics.update_fails, 1),
        }
        result?;
        self.engine.limits.sectors = backend.sectors();
        self.engine.backend = backend;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn replace_backend_unchecked(&mut self, mut backend: Box<dyn BlockBackend>) {
        connect(&mut self.completion, backend.as_mut()).unwrap();
        self.engine.backend = backend;
    }

    fn try_replace(&mut self, backend: &mut dyn BlockBackend) -> Result<(), BlockError> {
        if backend.read_only() != self.engine.limits.read_only {
            return Err(BlockError::AccessChanged);
        }
        self.land().map_err(BlockError::Queue)?;
        connect(&mut self.completion, backend)
    }

    /// Changes the limits while the guest runs. If there was none before,
    /// [`backend_events`](VirtioDevice::backend_events) grows.
    pub fn update_rate_limiter(&mut self, bytes: BucketUpdate, ops: BucketUpdate) -> std::io::Result<()> {
        let result = self.engine.limiter.update(bytes, ops);
        let metrics = &mut self.engine.metrics;
        match result {
            Ok(()) => count(&mut metrics.update_count, 1),
            Err(_) => count(&mut metrics.update_fails, 1),
        }
        result
    }

    /// Id of the drive.
    pub fn id(&self) -> &str {
        &self.engine.id
    }

    /// What a flush means.
    pub fn cache(&self) -> CacheMode {
        self.cache
    }

    /// Size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.engine.limits.sectors
    }

    /// Whether the guest cannot change the disk.
    pub fn read_only(&self) -> bool {
        self.engine.limits.read_only
    }

    pub(super) fn limiter(&self) -> &RateLimiter {
        &self.engine.limiter
    }

    pub(super) fn set_limiter(&mut self, limiter: RateLimiter) {
        self.engine.limiter = limiter;
    }

    /// Serves the queue until it is empty, the turn is over or something must be waited for.
    fn drain(&mut self) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let result = active.drain(&mut self.engine);
        // What was given back before a fault is announced all the same.
        let announced = active.queue.notify();
        result.and(announced).map_err(|source| self.fault(source))
    }

    /// Waits until nothing is in flight and gives it all back to the driver.
    fn land(&mut self) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let result = active.land(&mut self.engine);
        let announced = active.queue.notify();
        result.and(announced).map_err(|source| self.fault(source))
    }

    fn fault(&mut self, source: QueueFault) -> DeviceFault {
        count(&mut self.engine.metrics.event_fails, 1);
        DeviceFault::Queue { index: 0, source }
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        TYPE_BLOCK
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        config::features(self.engine.limits.read_only, self.cache)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&config::bytes(&self.engine.limits), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        count(&mut self.engine.metrics.cfg_fails, 1);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Some(queue) = activation.queues.into_iter().next().filter(ActiveQueue::ready) else {
            count(&mut self.engine.metrics.activate_fails, 1);
            return Err(ActivateError::QueueMissing(0));
        };
        self.engine.durable =
            self.cache == CacheMode::Writeback && activation.features & config::F_FLUSH == 0;
        self.active = Some(Active { queue });
        Ok(())
    }

    fn reset(&mut self) {
        self.engine.abandon();
        self.active = None;
    }

    fn process_queue(&mut self, _index: usize) -> Result<(), DeviceFault> {
        count(&mut self.engine.metrics.queue_event_count, 1);
        self.drain()
    }

    fn queue_positions(&self) -> Vec<QueuePosition> {
        self.active.iter().map(|active| active.queue.position()).collect()
    }

    fn quiesce(&mut self) -> Result<(), DeviceFault> {
        self.land()
    }

    fn backend_events(&self) -> Vec<BackendEvent> {
        let event = |fd, token| BackendEvent {
            fd,
            events: EventSet::IN,
            token,
        };
        let limiter = self.engine.limiter.timer().map(|fd| event(fd, TOKEN_LIMITER));
        let completion = self
            .completion
            .as_ref()
            .map(|fd| event(fd.as_raw_fd(), TOKEN_COMPLETION));
        limiter.into_iter().chain(completion).collect()
    }

    fn process_backend(&mut self, token: u32, _events: EventSet) -> Result<(), DeviceFault> {
        match token {
            TOKEN_LIMITER if self.engine.limiter.process_timer() => {
                count(&mut self.engine.metrics.rate_limiter_event_count, 1);
            }
            TOKEN_LIMITER => return Ok(()),
            _ => {
                // Only resets the event; how often it was signalled does not matter.
                self.completion.as_ref().map(EventFd::read);
            }
        }
        self.drain()
    }
}

impl Metered for Block {
    type Metrics = BlockMetrics;

    fn metrics(&mut self) -> &mut BlockMetrics {
        &mut self.engine.metrics
    }
}

/// Connects an asynchronous backend to the disk's event, which it may be the first to need.
fn connect(completion: &mut Option<EventFd>, backend: &mut dyn BlockBackend) -> Result<(), BlockError> {
    if !backend.asynchronous() {
        return Ok(());
    }
    let event = match completion.take() {
        Some(event) => event,
        None => EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(BlockError::Event)?,
    };
    let connected = backend.connect(&event).map_err(BlockError::Event);
    *completion = Some(event);
    connected
}
