//! Requests to one repository of a registry: authenticated, repeated when that can help, errors in plain words.

mod patience;
mod refusal;
mod request;
mod trust;

use std::io::Read;
use std::sync::{Arc, Mutex};

use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

pub(super) use patience::Patience;

use super::credentials::Secret;
use super::{PullOptions, RegistryError, Report};
use crate::{Digest, Reference};
use trust::{authorities, is_local};

/// A repository of a registry.
pub(crate) struct Client<'a> {
    agent: Agent,
    name: &'a Reference,
    plain: bool,
    /// `https://host/v2/repository`.
    base: String,
    secret: Secret,
    /// The `Authorization` header, once it is known.
    authorization: Mutex<Option<String>>,
    options: &'a PullOptions,
}

/// A document, and what the registry says it is.
pub(crate) struct Document {
    pub media_type: Option<String>,
    pub bytes: Vec<u8>,
}

impl<'a> Client<'a> {
    pub fn new(name: &'a Reference, options: &'a PullOptions) -> Result<Self, RegistryError> {
        let registry = name.registry();
        let plain = options.plain_http.unwrap_or_else(|| is_local(registry));
        let secret = options.credentials.find(registry);
        let secret = secret.map_err(|source| RegistryError::Credentials {
            registry: registry.to_owned(),
            source,
        })?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            .user_agent(concat!("koya/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.idle_timeout))
            .timeout_per_read(Some(options.idle_timeout))
            .timeout_per_write(Some(options.idle_timeout));
        if !plain {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(authorities(options.authorities.as_deref(), registry)?)
                .unversioned_rustls_crypto_provider(provider);
            config = config.tls_config(tls.build()).https_only(true);
        }
        // Its address is not its name.
        let host = if registry == "docker.io" {
            "registry-1.docker.io"
        } else {
            registry
        };
        let scheme = if plain { "http" } else { "https" };
        Ok(Self {
            agent: config.build().new_agent(),
            name,
            plain,
            base: format!("{scheme}://{host}/v2/{}", name.repository()),
            secret,
            authorization: Mutex::new(None),
            options,
        })
    }

    pub fn registry(&self) -> &str {
        self.name.registry()
    }

    pub(super) fn patience(&self) -> Patience<'a> {
        Patience::new(self.options)
    }

    /// The manifest or index with a tag or digest, of at most `limit` bytes.
    pub fn manifest(&self, wanted: &str, limit: u64, report: &Report<'_>) -> Result<Document, RegistryError> {
        let path = format!("manifests/{wanted}");
        let missing = || self.missing(wanted);
        self.document(&path, wanted, limit, &missing, report)
    }

    /// A blob that is a document, verified.
    pub fn small_blob(
        &self,
        digest: &Digest,
        limit: u64,
        report: &Report<'_>,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = digest.to_string();
        let missing = || self.no_part(&what);
        let document = self.document(&format!("blobs/{what}"), &what, limit, &missing, report)?;
        self.verify(digest, &Digest::of(&document.bytes))?;
        Ok(document.bytes)
    }

    pub fn verify(&self, expected: &Digest, actual: &Digest) -> Result<(), RegistryError> {
        if expected == actual {
            return Ok(());
        }
        Err(RegistryError::Digest {
            registry: self.registry().to_owned(),
            expected: *expected,
            actual: *actual,
        })
    }

    fn document(
        &self,
        path: &str,
        what: &str,
        limit: u64,
        missing: &dyn Fn() -> RegistryError,
        report: &Report<'_>,
    ) -> Result<Document, RegistryError> {
        let mut patience = self.patience();
        loop {
            let mut response = self.get(path, what, 0, missing, &mut patience, report)?;
            let header = response.headers().get("content-type");
            let media_type = header.and_then(|value| value.to_str().ok()).map(|text| {
                let text = text.split(';').next().unwrap_or_default();
                text.trim().chars().take(200).collect()
            });
            let mut bytes = Vec::new();
            let read = response
                .body_mut()
                .as_reader()
                .take(limit.saturating_add(1))
                .read_to_end(&mut bytes);
            match read {
                Ok(_) if bytes.len() as u64 > limit => {
                    return Err(RegistryError::Large {
                        registry: self.registry().to_owned(),
                        what: what.to_owned(),
                        limit,
                    });
                }
                Ok(_) => return Ok(Document { media_type, bytes }),
                Err(error) => {
                    let error = self.unreachable(path, Box::new(error));
                    if !patience.again(&error, None, report)? {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// A blob's bytes from an offset on, if the registry can do that: see the status.
    pub(super) fn blob(
        &self,
        digest: &Digest,
        from: u64,
        patience: &mut Patience<'_>,
        report: &Report<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let what = digest.to_string();
        let missing = || self.no_part(&what);
        self.get(&format!("blobs/{what}"), &what, from, &missing, patience, report)
    }
}
