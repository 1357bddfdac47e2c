//! Requests to one repository of a registry: authenticated, repeated when that can help, errors in plain words.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::auth::{Asking, Challenge, unauthorized};
use super::credentials::Secret;
use super::download::Report;
use super::{PullOptions, RegistryError};
use crate::{Digest, Reference};

/// Longest pause between two attempts, also if the registry asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an error page that are looked at.
const PAGE_MAX: u64 = 64 << 10;
/// Where systems keep the certificate authorities they trust.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Manifests and indexes that can be understood.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

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

/// Attempts that are left.
pub(super) struct Patience<'a> {
    options: &'a PullOptions,
    failed: u32,
}

impl Patience<'_> {
    /// Whether to try again; waits first. `asked` is how long the registry wants one to wait.
    pub fn again(
        &mut self,
        error: &RegistryError,
        asked: Option<Duration>,
        report: &Report<'_>,
    ) -> Result<bool, RegistryError> {
        if self.failed >= self.options.retries {
            return Ok(false);
        }
        let doubled = self.options.retry_pause.saturating_mul(1 << self.failed.min(10));
        let pause = asked.unwrap_or_default().max(doubled).min(PAUSE_MAX);
        self.failed = self.failed.saturating_add(1);
        report.retry(error, pause);
        let begun = Instant::now();
        while begun.elapsed() < pause {
            report.go_on()?;
            let left = pause.saturating_sub(begun.elapsed());
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(true)
    }

    /// Something went well.
    pub fn renew(&mut self) {
        self.failed = 0;
    }
}

/// What one request came to.
enum Answer {
    Good(Response<Body>),
    /// Worth another try, perhaps after a time that the registry names.
    Later(RegistryError, Option<Duration>),
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
        Patience {
            options: self.options,
            failed: 0,
        }
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

    fn get(
        &self,
        path: &str,
        what: &str,
        from: u64,
        missing: &dyn Fn() -> RegistryError,
        patience: &mut Patience<'_>,
        report: &Report<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        loop {
            report.go_on()?;
            let (error, asked) = match self.once(path, what, from, missing)? {
                Answer::Good(response) => return Ok(response),
                Answer::Later(error, asked) => (error, asked),
            };
            if !patience.again(&error, asked, report)? {
                return Err(error);
            }
        }
    }

    /// One request, and a second one if the first was answered by a challenge.
    fn once(
        &self,
        path: &str,
        what: &str,
        from: u64,
        missing: &dyn Fn() -> RegistryError,
    ) -> Result<Answer, RegistryError> {
        let mut response = match self.send(path, from) {
            Ok(response) => response,
            Err(error) => return self.failed(path, error),
        };
        if response.status().as_u16() == 401 {
            match self.authorize(&response) {
                Ok(true) => {}
                Ok(false) => return Err(unauthorized(&self.asking())),
                Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Status { .. })) => {
                    return Ok(Answer::Later(error, None));
                }
                Err(error) => return Err(error),
            }
            response = match self.send(path, from) {
                Ok(response) => response,
                Err(error) => return self.failed(path, error),
            };
        }
        let status = response.status().as_u16();
        match status {
            // 416: what was asked for begins behind the end.
            200 | 206 | 416 => Ok(Answer::Good(response)),
            401 | 403 => Err(unauthorized(&self.asking())),
            404 => Err(missing()),
            _ => {
                let asked = seconds(&response);
                let error = RegistryError::Status {
                    registry: self.registry().to_owned(),
                    what: what.to_owned(),
                    status,
                    told: told(&mut response),
                };
                if matches!(status, 408 | 429 | 500..=599) {
                    return Ok(Answer::Later(error, asked));
                }
                Err(error)
            }
        }
    }

    fn send(&self, path: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self
            .agent
            .get(format!("{}/{path}", self.base))
            .header("Accept-Encoding", "identity");
        if path.starts_with("manifests/") {
            request = request.header("Accept", ACCEPT);
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let authorization = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(header) = authorization {
            request = request.header("Authorization", header);
        }
        request.call()
    }

    /// Answers a challenge; `false` if there is nothing to answer with.
    fn authorize(&self, response: &Response<Body>) -> Result<bool, RegistryError> {
        let headers = response.headers().get_all("www-authenticate").iter();
        let mut challenges: Vec<_> = headers
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .collect();
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let Some(challenge) = challenges.first() else {
            return Ok(false);
        };
        let Some(header) = self.asking().answer(challenge)? else {
            return Ok(false);
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(true)
    }

    fn asking(&self) -> Asking<'_> {
        Asking {
            agent: &self.agent,
            registry: self.registry(),
            repository: self.name.repository(),
            secret: &self.secret,
            plain: self.plain,
        }
    }

    fn failed(&self, path: &str, error: ureq::Error) -> Result<Answer, RegistryError> {
        // What another attempt will not change.
        let is_final = match &error {
            ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => false,
            _ => true,
        };
        let error = self.unreachable(path, Box::new(error));
        if is_final {
            Err(error)
        } else {
            Ok(Answer::Later(error, None))
        }
    }

    fn unreachable(&self, path: &str, source: Box<dyn std::error::Error + Send + Sync>) -> RegistryError {
        RegistryError::Unreachable {
            registry: self.registry().to_owned(),
            url: format!("{}/{path}", self.base),
            scheme: if self.plain { "http" } else { "https" },
            source,
        }
    }

    fn no_part(&self, what: &str) -> RegistryError {
        RegistryError::NoPart {
            registry: self.registry().to_owned(),
            repository: self.name.repository().to_owned(),
            what: what.to_owned(),
        }
    }

    /// Whether it is the image that is missing, or only this tag or digest.
    fn missing(&self, wanted: &str) -> RegistryError {
        let (registry, repository) = (self.registry().to_owned(), self.name.repository().to_owned());
        let tags = self.send("tags/list?n=1000", 0);
        let Some(mut response) = tags.ok().filter(|response| response.status().as_u16() == 200) else {
            return RegistryError::NoImage { registry, repository };
        };
        let mut bytes = Vec::new();
        let read = response
            .body_mut()
            .as_reader()
            .take(PAGE_MAX)
            .read_to_end(&mut bytes);
        let known = match read
            .ok()
            .and_then(|_| serde_json::from_slice::<Tags>(&bytes).ok())
        {
            Some(Tags { tags: Some(tags) }) if !tags.is_empty() => known_tags(&tags),
            _ => "it has no tags that could be listed".to_owned(),
        };
        RegistryError::NoTag {
            registry,
            repository,
            wanted: wanted.to_owned(),
            known,
        }
    }
}

#[derive(serde::Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

/// The last ones, which are mostly the newest.
fn known_tags(tags: &[String]) -> String {
    const SHOWN: usize = 10;
    let some: Vec<_> = tags
        .iter()
        .rev()
        .take(SHOWN)
        .rev()
        .map(|tag| shown(tag))
        .collect();
    match tags.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("it has {}, and {more} more", some.join(", ")),
        _ => format!("it has {}", some.join(", ")),
    }
}

/// Without what a terminal would obey.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(128)
        .collect()
}

/// The registry's own words for an error (distribution specification §error codes).
fn told(response: &mut Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Page {
        errors: Vec<Fault>,
    }
    #[derive(serde::Deserialize)]
    struct Fault {
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    let read = response
        .body_mut()
        .as_reader()
        .take(PAGE_MAX)
        .read_to_end(&mut bytes);
    let page = read
        .ok()
        .and_then(|_| serde_json::from_slice::<Page>(&bytes).ok());
    let message = page
        .and_then(|page| page.errors.into_iter().next())
        .map(|fault| fault.message);
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!(" (\"{}\")", shown(&message)),
        None => String::new(),
    }
}

/// How long the registry asks to wait (RFC 9110 §10.2.3), where it says so in seconds.
fn seconds(response: &Response<Body>) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Whether a registry is on this machine, where docker, too, does without TLS.
fn is_local(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whom to trust: `SSL_CERT_FILE` counts, as for other programs.
fn authorities(given: Option<&Path>, registry: &str) -> Result<RootCerts, RegistryError> {
    let set = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let path = given.map(Path::to_owned).or(set).unwrap_or_else(|| {
        let mut known = AUTHORITIES.iter().map(Path::new);
        known
            .find(|path| path.is_file())
            .unwrap_or(Path::new(AUTHORITIES[0]))
            .to_owned()
    });
    let fault = |source| RegistryError::Authorities {
        path: path.clone(),
        registry: registry.to_owned(),
        source,
    };
    let bytes = std::fs::read(&path).map_err(|error| fault(Some(error)))?;
    let certificates: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(fault(None));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_this_machine_are_asked_without_tls() {
        for local in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]:5000",
            "a.localhost",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "docker.io",
            "localhost.org",
            "10.0.0.1:5000",
            "[::2]",
            "notlocalhost:5000",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn few_tags_are_listed_and_none_of_them_steers_a_terminal() {
        let tags = |count: usize| (0..count).map(|n| format!("{n}\u{1b}[2J")).collect::<Vec<_>>();
        assert_eq!(known_tags(&tags(2)), "it has 0?[2J, 1?[2J");
        let many = known_tags(&tags(500));
        assert!(many.contains("499?") && many.ends_with("and 490 more"), "{many}");
    }
}
