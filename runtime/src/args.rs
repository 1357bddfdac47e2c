//! The command line, as engines use runc's.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::log::Format;

/// An OCI runtime whose containers are in microVMs of their own.
#[derive(Debug, Parser)]
#[command(name = "koya-runtime", version = VERSION, disable_help_subcommand = true)]
pub struct Cli {
    /// Folder of the containers' states [default: /run/koya-runtime, or $XDG_RUNTIME_DIR/koya-runtime]
    #[arg(long, value_name = "FOLDER")]
    pub root: Option<PathBuf>,
    /// File that errors are added to, beside standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How they look there
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
    /// Taken and not needed: errors are all that is logged
    #[arg(long, value_name = "LEVEL", hide = true)]
    pub log_level: Option<String>,
    /// Names of cgroups are SLICE:PREFIX:NAME
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Taken and not needed: who is root is looked up
    #[arg(long, value_name = "BOOL", hide = true)]
    pub rootless: Option<String>,
    /// Taken and not needed
    #[arg(long, hide = true)]
    pub debug: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// What `--version` says after the name. docker looks for "version" in it, others for the second line.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container: boot its microVM, and prepare its first process
    Create(CreateArgs),
    /// Run the first process of a created container
    Start(IdArgs),
    /// Create a container, start it, and wait for its end
    Run(RunArgs),
    /// Print the state of a container
    State(IdArgs),
    /// Send a signal to a container's first process
    Kill(KillArgs),
    /// Remove a container that has stopped
    Delete(DeleteArgs),
    /// List containers
    List(ListArgs),
    /// List the processes that a container was asked to run
    Ps(PsArgs),
    /// Run another process in a container
    Exec(ExecArgs),
    /// Freeze all processes of a container
    Pause(IdArgs),
    /// Thaw them
    Resume(IdArgs),
    /// Change the limits of a container
    Update(UpdateArgs),
    /// Print what a container uses, now and then
    Events(EventsArgs),
    /// Write a config.json to begin with
    Spec(SpecArgs),
    /// Print what this runtime can do
    Features,
}

#[derive(Debug, Args)]
pub struct IdArgs {
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The bundle's folder
    #[arg(long, short, default_value = ".")]
    pub bundle: PathBuf,
    /// File that gets the process id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File descriptors beyond the standard streams; none can be handed to another kernel
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Taken and not needed: the guest's root is its own
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Taken and not needed
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
    /// The container's name to be
    pub id: String,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Do not wait for the end
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the container when it has ended
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// To every process of the container
    #[arg(long, short)]
    pub all: bool,
    /// The container
    pub id: String,
    /// Name or number
    #[arg(default_value = "TERM")]
    pub signal: String,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kill it first if it has not stopped; none is as wished
    #[arg(long, short)]
    pub force: bool,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub format: String,
    /// Only ids
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub format: String,
    /// The container
    pub id: String,
    /// Taken and not needed: options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// File with the process as JSON
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// File that gets the process id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Do not wait for the end
    #[arg(long, short)]
    pub detach: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Its working directory
    #[arg(long)]
    pub cwd: Option<String>,
    /// A variable for it
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Its user and group by number
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Another group for it
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// A capability for it
    #[arg(long, short, value_name = "NAME")]
    pub cap: Vec<String>,
    /// Let it gain no rights
    #[arg(long)]
    pub no_new_privs: bool,
    /// File descriptors beyond the standard streams; none can be handed to another kernel
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container
    pub id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// File with linux.resources as JSON; - is standard input
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Memory in bytes
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<i64>,
    /// Memory below which it is left alone, in bytes
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<i64>,
    /// Memory and swap in bytes; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// The period
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Share of processor time; 1024 is usual
    #[arg(long, value_name = "SHARE")]
    pub cpu_share: Option<u64>,
    /// Processes; -1 is no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Seconds between two lines
    #[arg(long, value_parser = seconds, default_value = "5s")]
    pub interval: std::time::Duration,
    /// One line, and no more
    #[arg(long)]
    pub stats: bool,
    /// The container
    pub id: String,
}

/// A time as 5s or 500ms.
fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let time: std::time::Duration = text
        .parse::<humantime::Duration>()
        .map_err(|error| error.to_string())?
        .into();
    match time.is_zero() {
        true => Err("want more than 0".to_owned()),
        false => Ok(time),
    }
}

#[derive(Debug, Args)]
pub struct SpecArgs {
    /// The bundle's folder
    #[arg(long, short, default_value = ".")]
    pub bundle: PathBuf,
    /// Taken and not needed
    #[arg(long, hide = true)]
    pub rootless: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operation_does_without_a_container() {
        for operation in ["state", "create", "start", "kill", "delete"] {
            let words = ["koya-runtime", operation];
            assert!(Cli::try_parse_from(words).is_err(), "{operation}");
            Cli::try_parse_from(words.iter().chain(&["web"])).unwrap();
        }
    }
}
