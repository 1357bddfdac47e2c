//! What a disk counts.

use serde::Serialize;

/// Counters of one disk, since they were last taken. Names are those of Firecracker's block metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BlockMetrics {
    /// Activations that failed.
    pub activate_fails: u64,
    /// Writes of the guest to the configuration space, which has nothing to write.
    pub cfg_fails: u64,
    /// Doorbells that found nothing in the queue.
    pub no_avail_buffer: u64,
    /// Events that could not be handled.
    pub event_fails: u64,
    /// Requests that the host failed to carry out: bad sectors, a full disk, a file that became shorter.
    pub execute_fails: u64,
    /// Requests that were refused because they make no sense.
    pub invalid_reqs_count: u64,
    /// Flushes done.
    pub flush_count: u64,
    /// Doorbells.
    pub queue_event_count: u64,
    /// Times the rate limiter's wait was over.
    pub rate_limiter_event_count: u64,
    /// Changes of the disk's file or limits.
    pub update_count: u64,
    /// Changes that failed.
    pub update_fails: u64,
    /// Bytes that the guest read.
    pub read_bytes: u64,
    /// Bytes that the guest wrote.
    pub write_bytes: u64,
    /// Reads done.
    pub read_count: u64,
    /// Writes done.
    pub write_count: u64,
    /// Discards and write-zeroes done.
    pub discard_count: u64,
    /// Bytes discarded or zeroed.
    pub discard_bytes: u64,
    /// Times the rate limiter said no.
    pub rate_limiter_throttled_events: u64,
    /// Times the asynchronous engine was full.
    pub io_engine_throttled_events: u64,
    /// Times a turn ended with requests left for the next one.
    pub remaining_reqs_count: u64,
}
