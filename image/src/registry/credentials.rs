//! Who asks a registry: what `docker login` wrote down, or what a credential helper knows.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

/// Largest config file or answer of a helper; real ones have a few hundred bytes.
const LARGEST: u64 = 1 << 20;
/// By which docker keeps the credentials of its own registry.
const DOCKER_KEY: &str = "index.docker.io";

/// Where credentials come from.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, and the helpers that it names. Nobody, if they
    /// know nothing of the registry.
    #[default]
    Docker,
    /// The same, from another folder.
    DockerFolder(PathBuf),
    /// Nobody.
    Anonymous,
    /// These.
    Password {
        /// User's name.
        user: String,
        /// Password or personal access token.
        password: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker => f.write_str("Docker"),
            Self::DockerFolder(path) => f.debug_tuple("DockerFolder").field(path).finish(),
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Password { user, .. } => f
                .debug_struct("Password")
                .field("user", user)
                .finish_non_exhaustive(),
        }
    }
}

/// Credentials that are there, but cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("{path}: reading failed")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what docker writes.
    #[error("{path}: is no config file of docker")]
    Json {
        /// Which.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// An entry of the file is not the base64 of `user:password`.
    #[error("{path}: what it says in auths about \"{key}\" is not the base64 of USER:PASSWORD; log in again")]
    Entry {
        /// Which file.
        path: PathBuf,
        /// Which entry.
        key: String,
    },
    /// A helper's name could be a path or an option.
    #[error("\"{0}\" cannot be the name of a credential helper")]
    HelperName(String),
    /// A helper cannot be run.
    #[error("{program}: cannot be run")]
    Helper {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A helper failed or answered nonsense.
    #[error("{program}: gave no credentials but \"{told}\"")]
    HelperAnswer {
        /// Which.
        program: String,
        /// What it said, shortened.
        told: String,
    },
}

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    None,
    Password {
        user: String,
        password: String,
    },
    /// For the token service (OAuth 2 refresh token).
    Identity(String),
    /// For the registry itself.
    Token(String),
}

impl Secret {
    /// Whose it is, for people.
    pub fn who(&self) -> String {
        match self {
            Self::None => "anybody who does not log in".to_owned(),
            Self::Password { user, .. } => format!("user {user:?}"),
            Self::Identity(_) | Self::Token(_) => "the token in docker's config".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Credentials {
    /// What they are for a registry, as it is named in references.
    pub(super) fn find(&self, registry: &str) -> Result<Secret, CredentialsError> {
        let folder = match self {
            Self::Anonymous => return Ok(Secret::None),
            Self::Password { user, password } => {
                let (user, password) = (user.clone(), password.clone());
                return Ok(Secret::Password { user, password });
            }
            Self::DockerFolder(folder) => Some(folder.clone()),
            Self::Docker => docker_folder(),
        };
        match folder {
            Some(folder) => in_file(&folder.join("config.json"), registry),
            None => Ok(Secret::None),
        }
    }
}

fn docker_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))
}

fn in_file(path: &Path, registry: &str) -> Result<Secret, CredentialsError> {
    let read = |source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LARGEST).read_to_end(&mut bytes).map_err(read)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Secret::None),
        Err(error) => return Err(read(error)),
    };
    let config: Config = serde_json::from_slice(&bytes).map_err(|source| CredentialsError::Json {
        path: path.to_owned(),
        source,
    })?;
    let host = if registry == "docker.io" {
        DOCKER_KEY
    } else {
        registry
    };
    let is_it = |key: &str| host_of(key) == host || key == registry;
    let entry = config.auths.iter().find(|(key, _)| is_it(key));
    let helper = config
        .helpers
        .iter()
        .find(|(key, _)| is_it(key))
        .map(|(_, name)| name);
    if let Some(name) = helper.or(config.store.as_ref()).filter(|name| !name.is_empty()) {
        let server = match entry {
            Some((key, _)) => key.clone(),
            None if host == DOCKER_KEY => format!("https://{DOCKER_KEY}/v1/"),
            None => registry.to_owned(),
        };
        if let Some(secret) = ask(name, &server)? {
            return Ok(secret);
        }
    }
    match entry {
        None => Ok(Secret::None),
        Some((key, entry)) => entry.secret().ok_or_else(|| CredentialsError::Entry {
            path: path.to_owned(),
            key: key.chars().take(100).collect(),
        }),
    }
}

/// Keys are hosts, or URLs as docker wrote them first.
fn host_of(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    key.split('/').next().unwrap_or_default()
}

impl Entry {
    /// `None` if it is malformed.
    fn secret(&self) -> Option<Secret> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Some(Secret::Token(token));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Some(Secret::Identity(token));
        }
        if let (Some(user), Some(password)) = (given(&self.username), given(&self.password)) {
            return Some(Secret::Password { user, password });
        }
        let Some(auth) = given(&self.auth) else {
            return Some(Secret::None);
        };
        let text = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(Secret::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// Asks `docker-credential-NAME get` (protocol of docker-credential-helpers).
fn ask(name: &str, server: &str) -> Result<Option<Secret>, CredentialsError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(fits) {
        return Err(CredentialsError::HelperName(name.chars().take(100).collect()));
    }
    let program = format!("docker-credential-{name}");
    let failed = |source| CredentialsError::Helper {
        program: program.clone(),
        source,
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not listen still may have an answer.
        let _ = writeln!(stdin, "{server}");
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LARGEST).read_to_end(&mut output).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    let text = String::from_utf8_lossy(&output);
    if !status.success() && text.contains("credentials not found") {
        return Ok(None);
    }
    let answer = status
        .success()
        .then(|| serde_json::from_slice::<Answer>(&output).ok())
        .flatten();
    match answer {
        Some(answer) if answer.username == "<token>" => Ok(Some(Secret::Identity(answer.secret))),
        Some(answer) => Ok(Some(Secret::Password {
            user: answer.username,
            password: answer.secret,
        })),
        None => Err(CredentialsError::HelperAnswer {
            program,
            // Of a success it could be a secret.
            told: if status.success() {
                "something that is no JSON of a helper".to_owned()
            } else {
                text.trim().chars().take(200).collect()
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, registry: &str) -> Result<Secret, CredentialsError> {
        let number = text.len().wrapping_mul(31).wrapping_add(registry.len());
        let folder = std::env::temp_dir().join(format!("koya-credentials-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), text).unwrap();
        let found = Credentials::DockerFolder(folder.clone()).find(registry);
        std::fs::remove_dir_all(folder).unwrap();
        found
    }

    fn password(user: &str, password: &str) -> Secret {
        Secret::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn what_docker_login_wrote_is_found_by_registry() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YWRhOnNlc2Ft"},
            "localhost:5000":{"auth":"Ym9iOmE6Yg=="},"quay.io":{"identitytoken":"t1"},
            "ghcr.io":{"registrytoken":"t2"},"x.org":{"auth":"!"},"empty.org":{}},"HttpHeaders":{"a":"b"}}"#;
        assert!(config(text, "docker.io").unwrap() == password("ada", "sesam"));
        assert!(config(text, "localhost:5000").unwrap() == password("bob", "a:b"));
        assert!(config(text, "quay.io").unwrap() == Secret::Identity("t1".into()));
        assert!(config(text, "ghcr.io").unwrap() == Secret::Token("t2".into()));
        for unknown in ["localhost", "other.org", "empty.org"] {
            assert!(config(text, unknown).unwrap() == Secret::None, "{unknown}");
        }
        assert!(matches!(config(text, "x.org"), Err(CredentialsError::Entry { key, .. }) if key == "x.org"));
    }

    #[test]
    fn what_is_no_config_is_told_and_what_is_missing_is_nobody() {
        for text in [
            "",
            "3",
            "{\"auths\":3}",
            "{\"auths\":{\"a\":{\"auth\":1}}}",
            "\u{1}",
        ] {
            assert!(
                matches!(config(text, "a"), Err(CredentialsError::Json { .. })),
                "{text:?}"
            );
        }
        let nowhere = Credentials::DockerFolder("/nonexistent".into());
        assert!(nowhere.find("docker.io").unwrap() == Secret::None);
        let bad = config(r#"{"credsStore":"../../bin/sh"}"#, "a.org");
        assert!(matches!(bad, Err(CredentialsError::HelperName(_))));
        let missing = config(r#"{"credHelpers":{"a.org":"koya-no-such-helper"}}"#, "a.org");
        assert!(matches!(missing, Err(CredentialsError::Helper { .. })));
    }

    #[test]
    fn passwords_are_not_printed() {
        let shown = format!(
            "{:?}",
            Credentials::Password {
                user: "ada".into(),
                password: "sesam".into()
            }
        );
        assert!(shown.contains("ada") && !shown.contains("sesam"), "{shown}");
    }
}
