//! The command line of the program itself.

use std::path::PathBuf;

use thiserror::Error;

use crate::helper::map;

/// Text of `--help`.
pub const HELP: &str = "\
koya-agent: PID 1 of a Koya guest

usage: koya-agent                    as PID 1: set up the guest, then serve on vsock ports 900 and 901
       koya-agent --listen-unix DIR  serve on DIR/rpc.sock and DIR/stream.sock, as an ordinary process of root
       koya-agent --version | --help

As PID 1 it reads from the kernel command line: koya.hostname=NAME; and
koya.template, with which it waits to be forked
";

/// Hidden verb under which the agent runs its own program as a helper.
pub const HELPER: &str = "container-helper";

/// Why the command line is not acceptable.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// An option that does not exist, or lacks its value.
    #[error(transparent)]
    Parse(#[from] lexopt::Error),
    /// Neither PID 1 nor told what to be.
    #[error("run it as PID 1 of a guest, or with --listen-unix DIR; see --help")]
    Nothing,
}

/// What the program is to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Mode {
    /// PID 1 of a guest.
    Init,
    /// A server on unix sockets in a folder.
    Unix(PathBuf),
    /// The one-threaded process that enters namespaces.
    Helper,
    /// Writes a file with the ids of a user namespace, as that program does.
    Map(&'static str),
    /// Prints its help.
    Help,
    /// Prints its version.
    Version,
}

/// The command line.
#[derive(Debug)]
pub struct Options {
    /// What to be.
    pub mode: Mode,
}

impl Options {
    /// From this process's arguments and its pid.
    pub fn from_environment() -> Result<Self, OptionsError> {
        let mut arguments = std::env::args_os().peekable();
        let name = arguments.next().unwrap_or_default();
        if let Some(file) = map::file_of(&name) {
            return Ok(Self {
                mode: Mode::Map(file),
            });
        }
        if arguments.peek().is_some_and(|verb| verb == HELPER) {
            return Ok(Self { mode: Mode::Helper });
        }
        // The kernel passes words of its command line that it does not know
        // to PID 1; they are not for us.
        if std::process::id() == 1 {
            return Ok(Self { mode: Mode::Init });
        }
        Self::parse(lexopt::Parser::from_args(arguments))
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Self, OptionsError> {
        use lexopt::prelude::{Long, Short};
        let mut mode = None;
        while let Some(argument) = parser.next()? {
            mode = Some(match argument {
                Long("listen-unix") => Mode::Unix(parser.value()?.into()),
                Long("help") | Short('h') => Mode::Help,
                Long("version") | Short('V') => Mode::Version,
                other => return Err(other.unexpected().into()),
            });
        }
        mode.map(|mode| Self { mode }).ok_or(OptionsError::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Mode, OptionsError> {
        Options::parse(lexopt::Parser::from_args(arguments)).map(|options| options.mode)
    }

    #[test]
    fn a_folder_to_listen_in() {
        assert_eq!(
            parse(&["--listen-unix", "/run/x"]).unwrap(),
            Mode::Unix("/run/x".into())
        );
    }

    #[test]
    fn nothing_and_nonsense_are_refused() {
        assert!(matches!(parse(&[]), Err(OptionsError::Nothing)));
        assert!(
            parse(&["--listen-unix"])
                .unwrap_err()
                .to_string()
                .contains("--listen-unix")
        );
        assert!(parse(&["serve"]).unwrap_err().to_string().contains("serve"));
    }
}
