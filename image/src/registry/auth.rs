//! What a registry wants to see before it answers: a password, or a token of a service that it names
//! (distribution specification: token authentication; RFC 7235 §2.1 for challenges).

use std::io::Read;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::RegistryError;
use super::credentials::Secret;

/// Largest answer of a token service. Tokens have a few KiB.
const ANSWER_MAX: u64 = 1 << 20;
/// Longest token: it must fit into a header, and servers take 8 to 64 KiB of those.
const TOKEN_MAX: usize = 32 << 10;
/// Characters of a token service's address that an error shows.
const REALM_SHOWN: usize = 200;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Whoever asks, and for what.
pub(super) struct Asking<'a> {
    pub agent: &'a Agent,
    pub registry: &'a str,
    pub repository: &'a str,
    pub secret: &'a Secret,
    /// The registry itself is asked without TLS.
    pub plain: bool,
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header; a token is preferred.
    pub fn parse(header: &str) -> Option<Self> {
        let mut found = None;
        let mut rest = header;
        while let Some((scheme, parameters, left)) = next_challenge(rest) {
            rest = left;
            let of = |name: &str| {
                let mut all = parameters.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                let service = of("service");
                return of("realm").map(|realm| Self::Bearer { realm, service });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Self::Basic);
            }
        }
        found
    }
}

type Parameters = Vec<(String, String)>;

/// Splits off a scheme and its parameters.
fn next_challenge(text: &str) -> Option<(&str, Parameters, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (scheme, mut rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    if scheme.is_empty() {
        return None;
    }
    let mut parameters = Vec::new();
    while let Some((name, value, left)) = parameter(rest) {
        parameters.push((name, value));
        rest = left;
    }
    Some((scheme, parameters, rest))
}

/// `name=value` or `name="value"`, with what stands before the next one.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (name, rest) = text.split_once('=')?;
    let name = name.trim_end();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return None;
    }
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        let (value, left) = rest.split_at_checked(end)?;
        return Some((name.to_owned(), value.to_owned(), left));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((name.to_owned(), value, quoted.get(at.checked_add(1)?..)?)),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

impl Asking<'_> {
    /// The `Authorization` header that answers a challenge. `None` if there is nothing to show.
    pub fn answer(&self, challenge: &Challenge) -> Result<Option<String>, RegistryError> {
        match (challenge, self.secret) {
            (_, Secret::Token(token)) => Ok(Some(format!("Bearer {token}"))),
            (Challenge::Basic, Secret::Password { user, password }) => Ok(Some(basic(user, password))),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service }, _) => self.token(realm, service.as_deref()).map(Some),
        }
    }

    fn token(&self, realm: &str, service: Option<&str>) -> Result<String, RegistryError> {
        let fault = |why| RegistryError::Token {
            registry: self.registry.to_owned(),
            realm: realm.chars().take(REALM_SHOWN).collect(),
            why,
        };
        let is_safe = realm.starts_with("https://") || (self.plain && realm.starts_with("http://"));
        if !is_safe {
            return Err(fault(
                "it is no https URL, so what goes there could be read by anybody",
            ));
        }
        let mut response = self.ask(realm, service)?;
        let mut bytes = Vec::new();
        let mut body = response.body_mut().as_reader().take(ANSWER_MAX);
        body.read_to_end(&mut bytes)
            .map_err(|_| fault("its answer broke off"))?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| fault("its answer is no JSON"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| fault("its answer has no token"))?;
        if token.len() > TOKEN_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fault("its token cannot be a header"));
        }
        Ok(format!("Bearer {token}"))
    }

    /// What the token service answers, if it is willing.
    fn ask(&self, realm: &str, service: Option<&str>) -> Result<Response<Body>, RegistryError> {
        let scope = format!("repository:{}:pull", self.repository);
        let sent = match self.secret {
            Secret::Identity(token) => self.agent.post(realm).send_form([
                ("grant_type", "refresh_token"),
                ("service", service.unwrap_or_default()),
                ("scope", &scope),
                ("client_id", "koya"),
                ("refresh_token", token),
            ]),
            secret => {
                let mut request = self.agent.get(realm).query("scope", &scope);
                if let Some(service) = service {
                    request = request.query("service", service);
                }
                if let Secret::Password { user, password } = secret {
                    request = request.header("Authorization", basic(user, password));
                }
                request.call()
            }
        };
        let shown = || realm.chars().take(REALM_SHOWN).collect::<String>();
        let response = sent.map_err(|error| RegistryError::Unreachable {
            registry: self.registry.to_owned(),
            url: shown(),
            scheme: if self.plain { "http" } else { "https" },
            source: Box::new(error),
        })?;
        match response.status().as_u16() {
            200 => Ok(response),
            400 | 401 | 403 => Err(unauthorized(self)),
            status => Err(RegistryError::Status {
                registry: self.registry.to_owned(),
                what: format!("a token ({})", shown()),
                status,
                told: String::new(),
            }),
        }
    }
}

/// RFC 7617.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

pub(super) fn unauthorized(asking: &Asking<'_>) -> RegistryError {
    let hint = match asking.secret {
        Secret::None => format!(
            "check its name, or log in first: `docker login {}` keeps the password where it is looked for",
            asking.registry
        ),
        _ => "check the image's name, the password, and whether the user may pull it".to_owned(),
    };
    RegistryError::Unauthorized {
        registry: asking.registry.to_owned(),
        repository: asking.repository.to_owned(),
        who: asking.secret.who(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
        assert_eq!(
            Challenge::parse(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b,c""#
            ),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"))
        );
        assert_eq!(
            Challenge::parse(r#"bearer realm=https://a , scope="x\"y""#),
            bearer("https://a", None)
        );
        assert_eq!(
            Challenge::parse(r#"Basic realm="r", charset="UTF-8", Bearer realm="https://a""#),
            bearer("https://a", None)
        );
        assert_eq!(
            Challenge::parse(r#"Basic realm="Registry Realm""#),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::parse("Basic"), Some(Challenge::Basic));
        for nothing in [
            "",
            " , ",
            "Digest x=y",
            "Bearer service=\"a\"",
            "Bearer realm=\"open",
            "Bearer =",
            "\"\"",
        ] {
            assert_eq!(Challenge::parse(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn no_header_makes_the_parser_stumble() {
        let base = br#"Bearer realm="https://a\"b",service="c", Basic realm=d"#;
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            let mut bytes = base.to_vec();
            for _ in 0..3 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (seed >> 8) as usize % bytes.len();
                bytes[at] = b"\"\\=, aB\xc3\xa9"[(seed >> 24) as usize % 9];
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Some(Challenge::Bearer { realm, .. }) = Challenge::parse(&text) {
                assert!(realm.len() <= text.len());
            }
        }
    }
}
