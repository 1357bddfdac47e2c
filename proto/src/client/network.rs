//! Calls about the networks of containers. Kinds of errors are those of [`ErrorKind`](crate::error::ErrorKind).

use super::{AgentClient, ClientError};
use crate::v1;

impl AgentClient {
    /// Moves network devices into a container and sets them up.
    ///
    /// # Errors
    /// `ERROR_KIND_NOT_FOUND` if no device has the address;
    /// `ERROR_KIND_INVALID`, `ERROR_KIND_RUNTIME`.
    pub fn configure_network(&self, request: &v1::ConfigureNetworkRequest) -> Result<(), ClientError> {
        self.tell("ConfigureNetwork", request)
    }

    /// Joins a stream to a TCP port of a container's loopback device.
    ///
    /// # Errors
    /// `ERROR_KIND_RUNTIME` if nobody listens there.
    pub fn dial(&self, request: &v1::DialRequest) -> Result<(), ClientError> {
        self.tell("Dial", request)
    }

    /// Has the host answer the names that a container asks for.
    ///
    /// # Errors
    /// `ERROR_KIND_RUNTIME` if the guest's kernel cannot redirect
    /// them; `ERROR_KIND_INVALID`, `ERROR_KIND_NOT_FOUND`.
    pub fn serve_names(&self, request: &v1::ServeNamesRequest) -> Result<(), ClientError> {
        self.tell("ServeNames", request)
    }
}
