//! HTTP/1.1 and 1.0 (RFC 9112), as much of it as the API needs, without any input or output of its own.
//!
//! ```text
//!  bytes ─► Connection::receive ─► next_request ─► Request ─► (endpoints) ─► Response ─► respond ─► output ─► bytes
//! ```
//!
//! Bodies have a `Content-Length`; chunked ones are refused. Everything a client can make grow has a limit.

mod connection;
mod request;
mod response;

pub use connection::{Connection, ConnectionLimits};
pub use request::{HeadError, MAX_HEAD_BYTES, MAX_HEADERS, Method, Request};
pub use response::{Response, SERVER_NAME, Status};

/// The largest body accepted by default, in bytes: Firecracker's.
pub const DEFAULT_PAYLOAD_LIMIT: usize = 51_200;
