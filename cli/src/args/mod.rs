//! The command line, in the words that docker's users know.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Containers in microVMs of their own, each with its own kernel.
#[derive(Debug, Parser)]
#[command(name = "koya", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new container
    #[command(disable_help_flag = true)]
    Run(RunArgs),
    /// Run another command in a running container
    Exec(ExecArgs),
    /// List containers
    #[command(visible_alias = "ls")]
    Ps(PsArgs),
    /// Stop running containers: the stop signal first, SIGKILL after a while
    Stop(StopArgs),
    /// Send a signal to running containers
    Kill(KillArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Load an image from a file or folder
    Load(LoadArgs),
    /// List images
    Images(ListArgs),
    /// Remove images
    Rmi(NamesArgs),
    /// Print the completions of a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// What a process is, wherever it runs.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; without a value, the one it has here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "FOLDER")]
    pub workdir: Option<String>,
    /// User, and group, by numbers
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// All capabilities, and the guest's devices. Never the host's
    #[arg(long)]
    pub privileged: bool,
}

/// `koya run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What its process is.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// A name for the container
    #[arg(long)]
    pub name: Option<String>,
    /// Its host name; by default its id
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// The program to run in place of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Make its root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Processors of the microVM, 1 to 32
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub vcpus: u8,
    /// Memory of the microVM, as 512m or 2g
    #[arg(long, default_value = "512m", value_name = "SIZE", value_parser = crate::size::memory)]
    pub vm_memory: u64,
    /// Size of the disk that takes what the container writes
    #[arg(long, default_value = "10g", value_name = "SIZE", value_parser = crate::size::storage)]
    pub storage: u64,
    /// Print help; -h is the host name, as docker's users expect
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// A loaded image, or an image's file or folder
    pub image: String,
    /// The command, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `koya exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// What its process is.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// The container's name or id
    pub container: String,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// How a list is shown.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// "table", or "json" for one object on each line
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
}

/// `koya ps`
#[derive(Debug, Args)]
pub struct PsArgs {
    /// How to show it.
    #[command(flatten)]
    pub list: ListArgs,
    /// Those that have stopped, too
    #[arg(short, long)]
    pub all: bool,
}

/// `koya stop`
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until SIGKILL
    #[arg(short, long, default_value_t = 10)]
    pub time: u64,
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya kill`
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Name or number of the signal
    #[arg(short, long, default_value = "KILL", value_parser = crate::signals::parse)]
    pub signal: u32,
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill those that run
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya load`
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// An OCI layout, an archive of `docker save`, or a root file system as tar or folder
    #[arg(value_name = "PATH", value_parser = path)]
    pub input: String,
    /// Say nothing but the image's id
    #[arg(short, long)]
    pub quiet: bool,
}

/// A command for several things.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// A path that cannot be taken for the name of an image.
fn path(text: &str) -> Result<String, String> {
    let scheme = ["oci:", "oci-archive:", "docker-archive:", "dir:"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    Ok(if scheme || text.starts_with(['/', '.']) {
        text.to_owned()
    } else {
        format!("./{text}")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_image_are_the_commands() {
        let cli = Cli::try_parse_from(["koya", "run", "--rm", "-it", "debian", "ls", "--all", "-t"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("{cli:?}")
        };
        assert!(run.rm && run.process.interactive && run.process.tty);
        assert_eq!(
            (run.image.as_str(), run.command.join(" ").as_str()),
            ("debian", "ls --all -t")
        );
    }
}
