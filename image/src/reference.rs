//! Names of images as docker users write them: `debian`, `localhost:5000/app:1`, `name@sha256:…`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
/// Longest name, registry included (distribution specification, pull §name).
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// The full name of an image: registry, repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that cannot name an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("an image name is empty")]
    Empty,
    /// The name is longer than registries allow.
    #[error("an image name may have at most {NAME_MAX} characters, this one has {0}")]
    Long(usize),
    /// The registry is no `host` or `host:port`.
    #[error("\"{0}\" is no registry: it would read HOST or HOST:PORT")]
    Registry(String),
    /// A part of the repository has characters it may not have.
    #[error(
        "\"{0}\" cannot be part of an image name: lower-case letters, digits and single . _ - between them can"
    )]
    Repository(String),
    /// The tag has characters it may not have.
    #[error("\"{0}\" is no tag: letters, digits and . _ - can be used, up to {TAG_MAX}, the first no . or -")]
    Tag(String),
    /// What follows `@` is no digest.
    #[error("the digest after @ is wrong")]
    Digest(#[from] DigestError),
    /// 64 hexadecimal digits: the id of an image, which nothing can be named.
    #[error("\"{0}\" is the id of an image, not a name")]
    Id(String),
}

impl Reference {
    /// Host, with port if one was given: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` if neither a tag nor a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index, if the reference pins one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name without tag and digest, as short as docker shows it: `debian`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        match self.repository.split_once('/') {
            Some((DEFAULT_NAMESPACE, rest)) if !rest.contains('/') => rest.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The whole reference as docker shows it: `debian:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    /// The full form: `docker.io/library/debian:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(format!("{}/{}", self.registry, self.repository)))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if Digest::from_hex(text).is_some() {
            return Err(ReferenceError::Id(text.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if name.len() > NAME_MAX {
            return Err(ReferenceError::Long(name.len()));
        }
        let (registry, path) = split_registry(name);
        if !registry_is_valid(registry) {
            return Err(ReferenceError::Registry(shown(registry)));
        }
        if let Some(bad) = path.split('/').find(|part| !component_is_valid(part)) {
            return Err(ReferenceError::Repository(shown(bad)));
        }
        if let Some(bad) = tag.filter(|tag| !tag_is_valid(tag)) {
            return Err(ReferenceError::Tag(shown(bad)));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        let latest = digest.is_none().then_some("latest");
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.or(latest).map(str::to_owned),
            digest,
        })
    }
}

/// The first part is a registry if it could not be part of a repository of the default one.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_REGISTRY, path),
        Some((first, path)) if first.contains(['.', ':', '[']) || first == "localhost" => (first, path),
        Some((first, path)) if first.chars().any(|c| c.is_ascii_uppercase()) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn registry_is_valid(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }),
    };
    let port_fits = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host_fits && port.is_none_or(port_fits)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (distribution specification, pull §name).
fn component_is_valid(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (part.bytes().next(), part.bytes().last()) else {
        return false;
    };
    is_word(first)
        && is_word(last)
        && part
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'_' | b'-'))
        && part.split(|c: char| c.is_ascii_alphanumeric()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn tag_is_valid(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= TAG_MAX
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn shown(part: &str) -> String {
    part.chars().take(80).collect()
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_mean_what_docker_users_mean() {
        assert_eq!(full("debian"), "docker.io/library/debian:latest");
        assert_eq!(full("debian:12"), "docker.io/library/debian:12");
        assert_eq!(full("me/app"), "docker.io/me/app:latest");
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("localhost:5000/app:1"), "localhost:5000/app:1");
        assert_eq!(full("[::1]:5000/a/b-c__d:x"), "[::1]:5000/a/b-c__d:x");
        assert_eq!(full("index.docker.io/debian"), "docker.io/library/debian:latest");
        assert_eq!(full("quay.io/a/b/c:v1.2_3-rc"), "quay.io/a/b/c:v1.2_3-rc");
    }

    #[test]
    fn a_digest_replaces_the_default_tag() {
        let digest = Digest::of(b"x");
        assert_eq!(
            full(&format!("debian@{digest}")),
            format!("docker.io/library/debian@{digest}")
        );
        let both = format!("debian:12@{digest}");
        assert_eq!(both.parse::<Reference>().unwrap().familiar(), both);
    }

    #[test]
    fn full_names_read_back_the_same() {
        for name in ["debian", "localhost:5000/app:1", "me/app:x"] {
            assert_eq!(full(&full(name)), full(name));
            assert_eq!(full(&name.parse::<Reference>().unwrap().familiar()), full(name));
        }
    }

    #[test]
    fn bad_names_say_which_part_is_wrong() {
        let fault = |text: &str| text.parse::<Reference>().unwrap_err();
        assert_eq!(fault(""), ReferenceError::Empty);
        assert_eq!(fault("Debian"), ReferenceError::Repository("Debian".into()));
        assert_eq!(fault("a//b"), ReferenceError::Repository("".into()));
        assert_eq!(fault("a/../b"), ReferenceError::Repository("..".into()));
        assert_eq!(fault("a___b"), ReferenceError::Repository("a___b".into()));
        assert_eq!(fault("a:-x"), ReferenceError::Tag("-x".into()));
        assert_eq!(fault("a:"), ReferenceError::Tag("".into()));
        assert_eq!(
            fault("host:99999/a"),
            ReferenceError::Registry("host:99999".into())
        );
        assert_eq!(fault(&"a".repeat(300)), ReferenceError::Long(300));
        assert_eq!(fault(&"a".repeat(64)), ReferenceError::Id("a".repeat(64)));
        assert!(matches!(fault("a@sha256:12"), ReferenceError::Digest(_)));
    }
}
