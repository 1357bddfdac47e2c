//! The command line of `koya-vmm`, which is Firecracker's.

use std::ffi::OsString;
use std::path::PathBuf;

use koya_api::config::{IdError, check_instance_id};
use koya_api::http;
use lexopt::prelude::*;

/// Where the API socket is when nobody says otherwise.
pub const DEFAULT_API_SOCKET: &str = "/run/firecracker.socket";
/// The microVM's id when nobody says otherwise.
pub const DEFAULT_ID: &str = "anonymous-instance";

/// What `koya-vmm --help` prints.
pub const HELP: &str = "\
koya-vmm: runs one microVM with KVM

Usage:
  koya-vmm --no-api --config-file vm.json     run the microVM that vm.json describes
  koya-vmm [--api-sock PATH]                  wait for instructions on the API socket
  koya-vmm [--api-sock PATH] --config-file F  run it, and listen on the API socket, too

Leave the guest's console with `poweroff` inside the guest, or with Ctrl-A x (Ctrl-A Ctrl-A sends Ctrl-A).

Options:
      --api-sock PATH         the API's unix socket [default: /run/firecracker.socket]
      --config-file FILE      JSON file with the microVM's configuration; starts it at once
      --no-api                open no API socket; needs --config-file
      --id ID                 the microVM's name in logs and answers: 1 to 64 letters, digits or '-'
                              [default: anonymous-instance]
      --boot-timer            give the guest a device that logs how long it took to boot
      --http-api-max-payload-size BYTES
                              largest body of a request [default: 51200]
      --log-path FILE         append the log to this file or pipe [default: standard error]
      --level LEVEL           Off, Error, Warn, Info, Debug or Trace [default: Info]
      --module MODULE         log only what this module (and those below it) says
      --show-level            show the level of each log line
      --show-log-origin       show file and line of each log line
      --metrics-path FILE     append the metrics to this file or pipe, a JSON object a line
      --start-time-us US      when the process was started, monotonic clock; reported in the metrics
      --start-time-cpu-us US  processor time at that moment
      --parent-cpu-time-us US processor time that the parent spent to start this process
      --no-seccomp            let the running microVM make any system call; by default, one that it does not need
                              ends it
  -V, --version               print the version
  -h, --help                  print this

Exit codes:
  0    the guest powered off or reset, or Ctrl-A x was typed
  1    an error, which is on standard error in one line; also a guest that faulted
  148  a forbidden system call        149, 150, 154, 156, 157  SIGBUS, SIGSEGV, SIGXCPU, SIGHUP, SIGILL
  152  an invalid log level           153  an invalid command line
  SIGTERM, SIGINT and SIGQUIT end it as they end any program: 143, 130 and 131 in a shell.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Be a monitor.
    Run(Box<Options>),
}

/// How to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The API socket; none with `--no-api`.
    pub api_socket: Option<PathBuf>,
    /// The instance's id.
    pub id: String,
    /// The configuration file.
    pub config_file: Option<PathBuf>,
    /// Whether to offer the boot timer.
    pub boot_timer: bool,
    /// Largest body of a request, in bytes.
    pub max_payload: usize,
    /// How to log.
    pub log: LogOptions,
    /// Where the metrics go.
    pub metrics_path: Option<PathBuf>,
    /// Whether the running microVM is confined to the system calls that it needs.
    pub seccomp: bool,
    /// Times of the process's start.
    pub started: StartTimes,
}

/// How to log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Where to; standard error if not given.
    pub path: Option<PathBuf>,
    /// The level as it was written; checked by the logger.
    pub level: Option<String>,
    /// Only this module.
    pub module: Option<String>,
    /// Show the level.
    pub show_level: bool,
    /// Show file and line.
    pub show_origin: bool,
}

/// What the parent measured, in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StartTimes {
    /// Monotonic clock when the process was started.
    pub wall_us: Option<u64>,
    /// Processor time at that moment.
    pub cpu_us: Option<u64>,
    /// Processor time that the parent spent.
    pub parent_cpu_us: Option<u64>,
}

/// The command line is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A word that means nothing here, a missing value and the like.
    #[error("{0}; see --help")]
    Usage(lexopt::Error),
    /// Given twice.
    #[error("--{0} is given twice")]
    Twice(&'static str),
    /// `--no-api` alone.
    #[error("--no-api needs --config-file: without both, nobody says what to run")]
    NothingToRun,
    /// Both seccomp options.
    #[error("--seccomp-filter and --no-seccomp exclude each other")]
    Seccomp,
    /// An option of Firecracker's that is not there yet.
    #[error("--{option} is not supported: {why}")]
    Unsupported {
        /// Which.
        option: &'static str,
        /// What is missing.
        why: &'static str,
    },
    /// A bad instance id.
    #[error("--id is not valid")]
    Id(#[source] IdError),
}

/// By hand, so that the error is not its own source as well, whose text would then be told twice.
impl From<lexopt::Error> for CliError {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error)
    }
}

/// Reads the command line; `args` without the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut raw = Raw::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long(name) => {
                let name = name.to_owned();
                raw.option(&name, &mut parser)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    raw.finish().map(|options| Command::Run(Box::new(options)))
}

/// Options as they are read, before they are checked against each other.
#[derive(Default)]
struct Raw {
    api_socket: Option<PathBuf>,
    id: Option<String>,
    config_file: Option<PathBuf>,
    metrics_path: Option<PathBuf>,
    max_payload: Option<usize>,
    boot_timer: bool,
    no_api: bool,
    no_seccomp: bool,
    seccomp_filter: bool,
    log: LogOptions,
    started: StartTimes,
}

impl Raw {
    fn option(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), CliError> {
        match name {
            "api-sock" => once("api-sock", &mut self.api_socket, parser.value()?.into()),
            "id" => once("id", &mut self.id, parser.value()?.string()?),
            "config-file" => once("config-file", &mut self.config_file, parser.value()?.into()),
            "metrics-path" => once("metrics-path", &mut self.metrics_path, parser.value()?.into()),
            "http-api-max-payload-size" => once(
                "http-api-max-payload-size",
                &mut self.max_payload,
                parser.value()?.parse()?,
            ),
            "log-path" => once("log-path", &mut self.log.path, parser.value()?.into()),
            "level" => once("level", &mut self.log.level, parser.value()?.string()?),
            "module" => once("module", &mut self.log.module, parser.value()?.string()?),
            "start-time-us" => once(
                "start-time-us",
                &mut self.started.wall_us,
                parser.value()?.parse()?,
            ),
            "start-time-cpu-us" => once(
                "start-time-cpu-us",
                &mut self.started.cpu_us,
                parser.value()?.parse()?,
            ),
            "parent-cpu-time-us" => once(
                "parent-cpu-time-us",
                &mut self.started.parent_cpu_us,
                parser.value()?.parse()?,
            ),
            "seccomp-filter" => {
                parser.value()?;
                flag(&mut self.seccomp_filter)
            }
            "show-level" => flag(&mut self.log.show_level),
            "show-log-origin" => flag(&mut self.log.show_origin),
            "boot-timer" => flag(&mut self.boot_timer),
            "no-api" => flag(&mut self.no_api),
            "no-seccomp" => flag(&mut self.no_seccomp),
            _ => Err(unsupported(name)),
        }
    }

    fn finish(self) -> Result<Options, CliError> {
        if self.no_api && self.config_file.is_none() {
            return Err(CliError::NothingToRun);
        }
        if self.seccomp_filter {
            return Err(if self.no_seccomp {
                CliError::Seccomp
            } else {
                CliError::Unsupported {
                    option: "seccomp-filter",
                    why: "filters made for Firecracker do not fit; those of koya-vmm are built in, \
                          and --no-seccomp leaves them out",
                }
            });
        }
        let api_socket = self.api_socket.unwrap_or_else(|| DEFAULT_API_SOCKET.into());
        Ok(Options {
            api_socket: (!self.no_api).then_some(api_socket),
            id: self.id.map_or_else(|| Ok(DEFAULT_ID.to_owned()), valid_id)?,
            config_file: self.config_file,
            boot_timer: self.boot_timer,
            max_payload: self.max_payload.unwrap_or(http::DEFAULT_PAYLOAD_LIMIT),
            log: self.log,
            metrics_path: self.metrics_path,
            seccomp: !self.no_seccomp,
            started: self.started,
        })
    }
}

/// Options that Firecracker has and Koya has not yet are told from typing errors.
fn unsupported(name: &str) -> CliError {
    let (option, why) = match name {
        "metadata" => ("metadata", "there is no metadata service yet"),
        "mmds-size-limit" => ("mmds-size-limit", "there is no metadata service yet"),
        "snapshot-version" => ("snapshot-version", "there are no snapshots yet"),
        "describe-snapshot" => ("describe-snapshot", "there are no snapshots yet"),
        "enable-pci" => ("enable-pci", "devices are on virtio-mmio"),
        _ => return CliError::Usage(Long(name).unexpected()),
    };
    CliError::Unsupported { option, why }
}

fn once<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), CliError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CliError::Twice(name)),
    }
}

/// A flag given twice says nothing new.
fn flag(place: &mut bool) -> Result<(), CliError> {
    *place = true;
    Ok(())
}

fn valid_id(id: String) -> Result<String, CliError> {
    check_instance_id(&id).map_err(CliError::Id)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Options, CliError> {
        match parse(args.iter().map(OsString::from))? {
            Command::Run(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_firecrackers() {
        let options = run(&[]).unwrap();
        assert_eq!(options.api_socket, Some(PathBuf::from("/run/firecracker.socket")));
        assert_eq!(options.id, "anonymous-instance");
        assert_eq!(options.max_payload, 51_200);
        assert!(!options.boot_timer);
        assert!(options.seccomp);
        assert!(!run(&["--no-seccomp"]).unwrap().seccomp);
    }

    #[test]
    fn no_api_needs_a_configuration() {
        assert!(matches!(run(&["--no-api"]), Err(CliError::NothingToRun)));
        let options = run(&["--no-api", "--config-file", "vm.json", "--boot-timer"]).unwrap();
        assert_eq!((options.api_socket, options.boot_timer), (None, true));
        assert_eq!(options.config_file, Some("vm.json".into()));
    }

    #[test]
    fn ids_are_letters_digits_and_dashes() {
        assert_eq!(run(&["--id", "web-1"]).unwrap().id, "web-1");
        for id in ["", "a/b", "a_b", "ü", &"a".repeat(65)] {
            assert!(matches!(run(&["--id", id]), Err(CliError::Id(_))), "{id}");
        }
    }

    #[test]
    fn help_and_version_win_over_what_follows() {
        assert_eq!(
            parse(["--version".into(), "--nonsense".into()]).unwrap(),
            Command::Version
        );
        assert_eq!(parse(["-h".into()]).unwrap(), Command::Help);
    }

    #[test]
    fn mistakes_are_named() {
        for (args, named) in [
            (&["--confg-file", "x"][..], "--confg-file"),
            (&["--id", "a", "--id", "b"][..], "--id is given twice"),
            (&["--enable-pci"][..], "--enable-pci is not supported"),
            (
                &["--seccomp-filter", "f", "--no-seccomp"][..],
                "exclude each other",
            ),
            (&["--http-api-max-payload-size", "many"][..], "many"),
            (&["--config-file"][..], "--config-file"),
            (&["stray"][..], "stray"),
        ] {
            let message = run(args).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
