//! The command line, as containerd writes it: flags as Go's programs have them, and an action at the end.

use std::ffi::OsString;
use std::path::PathBuf;

/// What containerd asks of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See to it that a shim serves the container whose bundle is the working folder, and print its address.
    Start,
    /// Remove what a dead shim has left.
    Delete,
    /// Be a shim.
    Serve,
    /// Print the version.
    Version,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// The container.
    pub id: String,
    /// containerd's socket.
    pub address: String,
    /// The container's bundle.
    pub bundle: Option<PathBuf>,
    /// Where to serve; this program's own.
    pub socket: Option<PathBuf>,
}

/// A command line that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A flag nobody knows.
    #[error("flag {0:?} is not known; containerd-shim-koya-v2 is started by containerd, see `runtime_type`")]
    Unknown(String),
    /// A flag without its value.
    #[error("flag -{0} lacks its value")]
    NoValue(String),
    /// An action nobody knows.
    #[error("action {0:?} is not known; want start or delete")]
    Action(String),
    /// A word that is no text.
    #[error("{0:?} is not UTF-8")]
    Text(OsString),
    /// A name that would be no folder's name.
    #[error("-{flag} is {name:?}; want 1 to 128 of A-Z a-z 0-9 _ . - beginning with a letter or digit")]
    Name {
        /// Which flag.
        flag: &'static str,
        /// Its value.
        name: String,
    },
}

/// Longest name: koya-runtime takes no longer one.
const LONGEST_NAME: usize = 128;

/// Whether files may be named after this name.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= LONGEST_NAME
        && name.bytes().all(allowed)
        && name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
}

impl Args {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// [`ArgsError`]
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut args = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            socket: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = word.into_string().map_err(ArgsError::Text)?;
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                args.action = action(&word)?;
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "v" | "version" => args.action = Action::Version,
                // Errors are all that is logged.
                "debug" => {}
                _ => {
                    let value = match value {
                        Some(value) => value,
                        None => words
                            .next()
                            .ok_or_else(|| ArgsError::NoValue(name.to_owned()))?
                            .into_string()
                            .map_err(ArgsError::Text)?,
                    };
                    args.set(name, value)?;
                }
            }
        }
        if args.action != Action::Version {
            checked("namespace", &args.namespace)?;
            checked("id", &args.id)?;
        }
        Ok(args)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ArgsError> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = Some(value.into()),
            "socket" => self.socket = Some(value.into()),
            // Events go over ttRPC, without another program.
            "publish-binary" => {}
            _ => return Err(ArgsError::Unknown(format!("-{name}"))),
        }
        Ok(())
    }
}

fn action(word: &str) -> Result<Action, ArgsError> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        _ => Err(ArgsError::Action(word.to_owned())),
    }
}

fn checked(flag: &'static str, name: &str) -> Result<(), ArgsError> {
    match is_name(name) {
        true => Ok(()),
        false => Err(ArgsError::Name {
            flag,
            name: name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn it_is_read_as_containerd_writes_it() {
        let args = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd \
             -id web --bundle=/run/b -debug start",
        )
        .unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!((args.namespace.as_str(), args.id.as_str()), ("k8s.io", "web"));
        assert_eq!(args.address, "/run/containerd/containerd.sock");
        assert_eq!(args.bundle, Some("/run/b".into()));
        assert_eq!(parse("-namespace n -id i").unwrap().action, Action::Serve);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, wanted) in [
            ("-namespace n -id ../../etc start", "-id is \"../../etc\""),
            ("-id i start", "-namespace is \"\""),
            ("-namespace n -id", "-id lacks"),
            ("-namespace n -id i -colour red", "-colour"),
            ("-namespace n -id i restart", "restart"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }
}
