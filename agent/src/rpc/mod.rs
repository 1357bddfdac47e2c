//! The agent's end of ttRPC.

mod server;
mod service;

use std::sync::Arc;

use koya_proto::v1::ShutdownKind;

pub use server::serve;
pub use service::Service;

use crate::error::Result;

/// Takes the guest down; answers before it happens.
pub type Power = Arc<dyn Fn(ShutdownKind) -> Result<()> + Send + Sync>;
