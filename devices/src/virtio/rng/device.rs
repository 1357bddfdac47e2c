//! The device: one queue of buffers to fill.

use event_manager::EventSet;
use serde::{Deserialize, Serialize};
use virtio_queue::desc::split::Descriptor;
use vm_memory::Address;

use super::backend::{HostRandom, RandomSource};
use crate::rate_limiter::{RateLimiter, RateLimiterState};
use crate::state::{Metered, RestoreError, Snapshot};
use crate::virtio::device::{ActivateError, Activation, BackendEvent, DeviceFault, VirtioDevice};
use crate::virtio::mmio::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::virtio::queue::{ActiveQueue, Chain, Drained, MAX_DESCRIPTORS, QueuePosition, Step};

/// Device type (virtio 1.2 §5.4.1).
const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZES: [u16; 1] = [256];
/// Bytes given for one request, however much room the driver offers. More than Linux ever asks for (64 bytes); a
/// driver that got less than it wanted asks again.
const MAX_REQUEST: usize = 64 << 10;
/// Bytes given before other devices have their turn: a few milliseconds of the host's generator.
const BYTES_PER_TURN: usize = 1 << 20;
/// Bytes fetched at once, on the stack.
const CHUNK: usize = 4096;
const TIMER: u32 = 0;
const VERSION: u32 = 1;

/// Counters of the entropy device.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct RngMetrics {
    /// Requests that could not be served: no room to write, or no random bytes.
    pub entropy_event_fails: u64,
    /// Requests.
    pub entropy_event_count: u64,
    /// Random bytes given to the guest.
    pub entropy_bytes: u64,
    /// Failures of the host's generator.
    pub host_rng_fails: u64,
    /// Requests that the rate limiter put off.
    pub entropy_rate_limiter_throttled: u64,
    /// Times that the rate limiter's wait ended.
    pub rate_limiter_event_count: u64,
}

/// A saved [`Rng`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {
    /// Format version, 1.
    pub version: u32,
    /// The limit on bytes and requests.
    pub rate_limiter: RateLimiterState,
}

/// An entropy device.
pub struct Rng<S = HostRandom> {
    source: S,
    rate_limiter: RateLimiter,
    queue: Option<ActiveQueue>,
    metrics: RngMetrics,
}

impl Rng {
    /// A device that gives the host kernel's random bytes.
    pub fn new(rate_limiter: RateLimiter) -> Self {
        Self::with_source(HostRandom, rate_limiter)
    }
}

impl<S: RandomSource> Rng<S> {
    /// A device that gives the bytes of `source`.
    pub fn with_source(source: S, rate_limiter: RateLimiter) -> Self {
        Self {
            source,
            rate_limiter,
            queue: None,
            metrics: RngMetrics::default(),
        }
    }

    /// The limit, to change it. When that makes its timer appear, the transport must be told that there is more to
    /// watch.
    pub fn rate_limiter_mut(&mut self) -> &mut RateLimiter {
        &mut self.rate_limiter
    }

    fn serve(&mut self) -> Result<(), DeviceFault> {
        let Self {
            source,
            rate_limiter,
            queue: Some(queue),
            metrics,
        } = self
        else {
            return Ok(());
        };
        let mut left = BYTES_PER_TURN;
        let drained = queue.drain(|chain| {
            if left == 0 {
                return Step::Later;
            }
            let wanted = room(&chain).min(left);
            if !rate_limiter.consume_request(u64::try_from(wanted).unwrap_or(u64::MAX)) {
                metrics.entropy_rate_limiter_throttled =
                    metrics.entropy_rate_limiter_throttled.saturating_add(1);
                return Step::Later;
            }
            let given = fill(source, chain, wanted, metrics);
            left = left.saturating_sub(given);
            Step::Used(u32::try_from(given).unwrap_or(0))
        });
        let drained = drained.and_then(|drained| {
            let turn_over = drained == Drained::Later && !rate_limiter.is_blocked();
            if turn_over { queue.ring() } else { Ok(()) }
        });
        drained.map_err(|source| DeviceFault::Queue { index: 0, source })
    }
}

/// How many bytes a request gets.
fn room(chain: &Chain<'_>) -> usize {
    let lengths = writable(chain).map(|descriptor| to_usize(descriptor.len()));
    lengths.fold(0, usize::saturating_add).min(MAX_REQUEST)
}

/// Writes `wanted` random bytes into the chain, or as many as there are and fit; returns how many.
fn fill(source: &mut impl RandomSource, chain: Chain<'_>, wanted: usize, metrics: &mut RngMetrics) -> usize {
    metrics.entropy_event_count = metrics.entropy_event_count.saturating_add(1);
    let given = write_random(source, &chain, wanted).unwrap_or_else(|(given, error)| {
        if matches!(error, FillError::Source) {
            metrics.host_rng_fails = metrics.host_rng_fails.saturating_add(1);
        }
        given
    });
    if given == 0 {
        metrics.entropy_event_fails = metrics.entropy_event_fails.saturating_add(1);
    }
    metrics.entropy_bytes = metrics
        .entropy_bytes
        .saturating_add(u64::try_from(given).unwrap_or(0));
    given
}

enum FillError {
    Source,
    Memory,
}

/// The error comes with what was written before it.
fn write_random(
    source: &mut impl RandomSource,
    chain: &Chain<'_>,
    wanted: usize,
) -> Result<usize, (usize, FillError)> {
    let mut given = 0_usize;
    let mut chunk = [0; CHUNK];
    for part in writable(chain) {
        let (mut address, mut left) = (part.addr(), to_usize(part.len()));
        while left > 0 && given < wanted {
            let len = left.min(CHUNK).min(wanted.saturating_sub(given));
            let bytes = chunk.get_mut(..len).unwrap_or_default();
            source.fill(bytes).map_err(|_| (given, FillError::Source))?;
            chain
                .memory()
                .write(bytes, address)
                .map_err(|_| (given, FillError::Memory))?;
            given = given.saturating_add(len);
            left = left.saturating_sub(len);
            // What was just written lies in memory, which does not reach the end of the address space.
            address = address.unchecked_add(u64::try_from(len).unwrap_or(0));
        }
    }
    Ok(given)
}

fn writable<'a>(chain: &Chain<'a>) -> impl Iterator<Item = Descriptor> + use<'a> {
    chain
        .clone()
        .take(MAX_DESCRIPTORS)
        .filter(Descriptor::is_write_only)
}

fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

impl<S: RandomSource> VirtioDevice for Rng<S> {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_INDIRECT_DESC | F_EVENT_IDX
    }

    /// The device has no configuration.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().filter(ActiveQueue::ready);
        self.queue = Some(queue.ok_or(ActivateError::QueueMissing(0))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.queue = None;
    }

    fn process_queue(&mut self, _index: usize) -> Result<(), DeviceFault> {
        self.serve()
    }

    fn queue_positions(&self) -> Vec<QueuePosition> {
        self.queue.iter().map(ActiveQueue::position).collect()
    }

    fn backend_events(&self) -> Vec<BackendEvent> {
        let timer = self.rate_limiter.timer();
        timer
            .map(|fd| BackendEvent {
                fd,
                events: EventSet::IN,
                token: TIMER,
            })
            .into_iter()
            .collect()
    }

    fn process_backend(&mut self, _token: u32, _events: EventSet) -> Result<(), DeviceFault> {
        if !self.rate_limiter.process_timer() {
            return Ok(());
        }
        self.metrics.rate_limiter_event_count = self.metrics.rate_limiter_event_count.saturating_add(1);
        self.serve()
    }
}

impl<S> Metered for Rng<S> {
    type Metrics = RngMetrics;

    fn metrics(&mut self) -> &mut RngMetrics {
        &mut self.metrics
    }
}

impl<S> Snapshot for Rng<S> {
    type State = RngState;

    fn save(&self) -> RngState {
        RngState {
            version: VERSION,
            rate_limiter: self.rate_limiter.save(),
        }
    }

    fn restore(&mut self, state: &RngState) -> Result<(), RestoreError> {
        RestoreError::check_version("entropy device", state.version, VERSION)?;
        self.rate_limiter = RateLimiter::restore(&state.rate_limiter)?;
        Ok(())
    }
}
