//! Why a command failed, and the exit code for it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use koya_image::ImageError;
use koya_proto::client::ClientError;
use koya_proto::error::ErrorKind;
use koya_sandbox::copy::CopyError;
use koya_sandbox::monitor::{MonitorError, ServeError};
use koya_sandbox::network::{AddressError, NetworkError};
use koya_sandbox::parts::PartsError;
use koya_sandbox::state::StateError;
use koya_sandbox::volumes::VolumeSyntaxError;

use crate::setup::SetupError;
use crate::template::TemplateError;

/// The exit codes that docker's users know.
const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const MISSING: u8 = 127;

/// Characters of an error that are shown: a guest may have a say in it.
const LONGEST_LINE: usize = 2000;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A command line that cannot be understood, in words for people.
    #[error("{0}")]
    Usage(String),
    /// The image cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A container cannot be made, found or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A part of the installation is missing.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// The monitor of a microVM cannot be asked, or refused.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// This program cannot be a monitor.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The monitor is gone.
    #[error("the monitor of the microVM is gone, and the container with it")]
    MonitorLost,
    /// The agent refused.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// The streams of a process.
    #[error("cannot connect the streams of the process")]
    Streams(#[source] io::Error),
    /// Reaching a running instance.
    #[error("cannot reach the microVM of {0}")]
    Unreachable(String, #[source] io::Error),
    /// The terminal of this program.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// Somebody types who cannot.
    #[error("the input device is not a TTY: leave out -t, or -i")]
    NoTerminal,
    /// What the process wrote did not arrive.
    #[error("cannot write the output of the process")]
    OutputLost(#[source] io::Error),
    /// A stop signal that is none.
    #[error("the image's stop signal is wrong: {0}")]
    StopSignal(String),
    /// Taking over signals.
    #[error("cannot take over signals")]
    Signals(#[source] io::Error),
    /// Nobody types an archive.
    #[error(
        "no archive: name one (koya load PATH), or send it to standard input (docker save IMAGE | koya load)"
    )]
    NoArchive,
    /// There is no room for it, or it cannot be read.
    #[error("cannot take the archive from standard input")]
    Archive(#[source] io::Error),
    /// A container cannot be both.
    #[error(
        "--rm and --restart exclude each other: a container that is removed at its end cannot be started again"
    )]
    RemoveOrRestart,
    /// Neither the image nor the user says what to run.
    #[error("no command specified: the image has none, so give one behind its name")]
    NoCommand,
    /// A network that is somebody else's.
    #[error("--network {0}: a microVM has its own network; give the name of one (koya network ls), or none")]
    ForeignNetwork(String),
    /// A network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A range of addresses.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A volume's words.
    #[error(transparent)]
    Volume(#[from] VolumeSyntaxError),
    /// A volume's source.
    #[error("volume {0:?}: no such file or folder")]
    NoSource(PathBuf),
    /// A name that no volume can have.
    #[error(
        "{0:?} is no name of a volume: use letters, digits, '_', '.' and '-', beginning with a letter or digit"
    )]
    VolumeName(String),
    /// No volume is called so.
    #[error("no such volume: {0}")]
    NoVolume(String),
    /// A volume that somebody has.
    #[error("volume {0} is in use by container {1}; remove that first")]
    VolumeInUse(String, String),
    /// A volume's folder.
    #[error("{0} {1:?} failed")]
    VolumeFolder(&'static str, PathBuf, #[source] io::Error),
    /// A port that leads nowhere.
    #[error("no port of the host leads to port {1} of container {0}")]
    NoPort(String, String),
    /// A name with a digest.
    #[error(
        "{0:?}: a digest is what an image is, not what it can be called; give a name, and a tag if you like"
    )]
    TagDigest(String),
    /// Copying.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Copying within a container, or past all.
    #[error("copy between a container and the host: one of both is CONTAINER:PATH")]
    CopyEnds,
    /// A file of variables.
    #[error("cannot read the variables in {0:?}")]
    EnvFile(PathBuf, #[source] io::Error),
    /// A pair that is none.
    #[error("{0} {1:?} is not NAME=VALUE")]
    Pair(&'static str, String),
    /// A security option.
    #[error("--security-opt {0:?} is unknown; there are no-new-privileges and seccomp=unconfined")]
    SecurityOption(String),
    /// An option of the log.
    #[error(
        "--log-opt {0:?} is unknown or wrong; there are max-size=SIZE, at least 1k, and max-file=NUMBER, 1 to 1000"
    )]
    LogOption(String),
    /// A filter of a list.
    #[error("the filter {0:?} is unknown; write KEY=VALUE with one of {1}")]
    Filter(String, &'static str),
    /// A template of a list.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A container without log.
    #[error("container {0} keeps no log: it was made with --log-driver none")]
    NoLog(String),
    /// Attaching to several.
    #[error("one can attach to one container at a time")]
    AttachToOne,
    /// A container that runs.
    #[error("container {0} is running; stop it first, or use force")]
    Runs(String),
    /// `koya update` without any limit.
    #[error("nothing is to be changed; name a limit, as --memory 512m (koya update --help lists them)")]
    NothingToUpdate,
    /// More than the microVM has.
    #[error(
        "{0} is more than the microVM of container {2} has, which is {1}; make it with more (--vcpus, --vm-memory)"
    )]
    SmallVm(&'static str, String, String),
    /// Memory and swap together are less than memory.
    #[error("--memory-swap is memory and swap together, and must not be less than --memory; give both")]
    SwapBelowMemory,
    /// A container that has to run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It did not end.
    #[error("container {0} did not end")]
    Lingers(String),
    /// The home folder is not known.
    #[error("cannot tell where to keep containers: neither XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// `koya setup`.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Output of this program.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The exit code: that of a shell for a program that is missing or cannot be executed, otherwise 125.
    pub fn exit_code(&self) -> u8 {
        let kind = match self {
            Self::Monitor(MonitorError::Refused { code, .. }) => return *code,
            Self::Agent(error) => error.kind(),
            _ => None,
        };
        match kind {
            Some(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING) => MISSING,
            Some(ErrorKind::ERROR_KIND_NOT_EXECUTABLE) => NOT_EXECUTABLE,
            _ => FAILED,
        }
    }

    /// The error and its causes in one line, without anything a terminal would act on.
    pub fn one_line(&self) -> String {
        let mut line = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            source = cause.source();
        }
        let line = line.replace('\n', "; ");
        line.chars()
            .filter(|letter| !letter.is_control())
            .take(LONGEST_LINE)
            .collect()
    }
}
