//! What happened on a network device, in the names of Firecracker's metrics where it has them.

use serde::Serialize;

/// Counters of one network device. Bytes include the virtio header of each frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NetMetrics {
    /// Activations that failed.
    pub activate_fails: u64,
    /// Writes to the read-only configuration.
    pub cfg_fails: u64,
    /// Times that receiving waited for buffers of the driver.
    pub no_rx_avail_buffer: u64,
    /// Doorbells of the transmit queue without anything to transmit.
    pub no_tx_avail_buffer: u64,
    /// Events that could not be handled.
    pub event_fails: u64,
    /// Doorbells of the receive queue.
    pub rx_queue_event_count: u64,
    /// Events of the receive rate limiter.
    pub rx_event_rate_limiter_count: u64,
    /// Times that the receive rate limiter held a frame back.
    pub rx_rate_limiter_throttled: u64,
    /// Events of the tap.
    pub rx_tap_event_count: u64,
    /// Bytes received.
    pub rx_bytes_count: u64,
    /// Frames received.
    pub rx_packets_count: u64,
    /// Receive buffers that are of no use: outside memory, not writable, or too small for a header.
    pub rx_fails: u64,
    /// Successful reads of frames.
    pub rx_count: u64,
    /// Frames from the host that were dropped because no buffer of the driver could hold them.
    pub rx_dropped: u64,
    /// Reads from the tap that failed.
    pub tap_read_fails: u64,
    /// Writes to the tap that failed; each lost a frame.
    pub tap_write_fails: u64,
    /// Bytes transmitted.
    pub tx_bytes_count: u64,
    /// Frames dropped because of their length or header.
    pub tx_malformed_frames: u64,
    /// Chains of descriptors that hold no frame.
    pub tx_fails: u64,
    /// Successful writes of frames.
    pub tx_count: u64,
    /// Frames transmitted.
    pub tx_packets_count: u64,
    /// Doorbells of the transmit queue.
    pub tx_queue_event_count: u64,
    /// Events of the transmit rate limiter.
    pub tx_rate_limiter_event_count: u64,
    /// Times that the transmit rate limiter held a frame back.
    pub tx_rate_limiter_throttled: u64,
    /// Frames dropped because their source address is not the guest's.
    pub tx_spoofed_mac_count: u64,
}

/// Adds to a counter, which wraps around in its own time.
pub(super) fn count(counter: &mut u64, by: u64) {
    *counter = counter.wrapping_add(by);
}
