//! Images from registries (OCI distribution specification 1.1, pull).
//!
//! ```text
//!  Store::pull ─► documents: index ─► manifest ─► config      (http: capped, verified)
//!       │              │ 401 ─► auth: token or password ◄─ credentials: docker's config file, helpers
//!       └─► layers, three at a time ─► cache/…/<hex>.partial  (download: hashed on their way, continued by Range)
//! ```
//!
//! A registry is as hostile as an image: documents, tokens and error pages have caps, layers the size their
//! manifest says, a wait ends when no byte comes, and a password goes to the registry and its token service only.

mod auth;
mod client;
mod credentials;
mod download;
mod error;

use std::path::PathBuf;
use std::time::Duration;

pub use credentials::{Credentials, CredentialsError};
pub use error::RegistryError;

pub(crate) use client::Client;
pub(crate) use client::Document;
pub(crate) use download::{Blob, Download, DownloadFault, Report};

/// How to talk to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// Who asks.
    pub credentials: Credentials,
    /// Without TLS. `None`: only with registries on this machine (`localhost`, `127.0.0.0/8`, `::1`).
    pub plain_http: Option<bool>,
    /// A PEM file of certificate authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Longest time until a connection stands.
    pub connect_timeout: Duration,
    /// Longest time without a single byte.
    pub idle_timeout: Duration,
    /// How often a request is repeated that failed for want of network, or with status 429 or 5xx. Downloads
    /// that got ahead since count anew.
    pub retries: u32,
    /// Time before the first repetition; doubled with each, up to a minute.
    pub retry_pause: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            credentials: Credentials::Docker,
            plain_http: None,
            authorities: None,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            retries: 5,
            retry_pause: Duration::from_millis(500),
        }
    }
}
