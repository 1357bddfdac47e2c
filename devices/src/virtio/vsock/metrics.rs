//! What happened on a socket device, in the names of Firecracker's metrics.

use serde::Serialize;

/// Counters of the socket device. "Received" and "transmitted" are the guest's words. Bytes are those of the streams,
/// without headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VsockMetrics {
    /// Activations that failed.
    pub activate_fails: u64,
    /// Writes to the read-only configuration.
    pub cfg_fails: u64,
    /// Receive buffers that are of no use: outside memory, not writable, or too small for a header and data.
    pub rx_queue_event_fails: u64,
    /// Chains of the transmit queue that hold no packet.
    pub tx_queue_event_fails: u64,
    /// Buffers of the event queue that cannot hold an event.
    pub ev_queue_event_fails: u64,
    /// Failures to wait for, to accept or to time connections.
    pub muxer_event_fails: u64,
    /// Failures to watch a connection's socket.
    pub conn_event_fails: u64,
    /// Doorbells of the receive queue.
    pub rx_queue_event_count: u64,
    /// Doorbells of the transmit queue.
    pub tx_queue_event_count: u64,
    /// Bytes received.
    pub rx_bytes_count: u64,
    /// Bytes transmitted.
    pub tx_bytes_count: u64,
    /// Packets received.
    pub rx_packets_count: u64,
    /// Packets transmitted.
    pub tx_packets_count: u64,
    /// Connections that one side asked for and the other was asked to accept.
    pub conns_added: u64,
    /// Connections that were reset: for a broken rule, a deadline, or an error of the host's socket.
    pub conns_killed: u64,
    /// Connections that ended, in whatever way.
    pub conns_removed: u64,
    /// Always zero: deadlines are kept in order.
    pub killq_resync: u64,
    /// Writes of kept bytes to a host's socket that failed.
    pub tx_flush_fails: u64,
    /// Writes of a packet to a host's socket that failed.
    pub tx_write_fails: u64,
    /// Reads from a host's socket that failed.
    pub rx_read_fails: u64,
}

/// Adds to a counter, which wraps around in its own time.
pub(super) fn count(counter: &mut u64, by: u64) {
    *counter = counter.wrapping_add(by);
}
