//! One request: sent, authorized, repeated when that can help.

use std::sync::PoisonError;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::refusal::{seconds, told};
use super::{Client, Patience};
use crate::registry::auth::{Asking, Challenge, unauthorized};
use crate::registry::{RegistryError, Report};

/// Manifests and indexes that can be understood.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// What one request came to.
enum Answer {
    Good(Response<Body>),
    /// Worth another try, perhaps after a time that the registry names.
    Later(RegistryError, Option<Duration>),
}

impl Client<'_> {
    /// What is at a path, from a byte on.
    pub(super) fn get(
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

    pub(super) fn send(&self, path: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
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
}
