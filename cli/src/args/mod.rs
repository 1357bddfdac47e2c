//! The command line, in the words that docker's users know.

mod run;
mod setup;
mod usage;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

pub use run::{HealthArgs, HostArgs, LimitArgs, ProcessArgs, RightsArgs, RunArgs, ShareArgs};
pub use setup::{EngineArgs, FileArgs, KubernetesArgs, SetupCommand};
pub use usage::one_line;

/// Containers in microVMs of their own, each with its own kernel.
#[derive(Debug, Parser)]
#[command(name = "koya", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(words)?;
        if let Command::Run(args) | Command::Create(args) = &cli.command
            && args.image().starts_with('-')
        {
            // No image is called so: it is an option that nobody knows.
            let told = format!("unexpected argument '{}' found", args.image());
            return Err(Self::command().error(ErrorKind::UnknownArgument, told));
        }
        Ok(cli)
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new container
    #[command(disable_help_flag = true)]
    Run(RunArgs),
    /// Make a new container without starting it
    #[command(disable_help_flag = true)]
    Create(RunArgs),
    /// Start containers that have stopped, or were only made
    Start(StartArgs),
    /// Attach to a running container: what it writes, and what is typed here
    Attach(AttachArgs),
    /// Run another command in a running container
    Exec(ExecArgs),
    /// Show what a container wrote
    Logs(LogsArgs),
    /// List containers
    #[command(visible_alias = "ls")]
    Ps(PsArgs),
    /// Stop running containers: the stop signal first, SIGKILL after a while
    Stop(StopArgs),
    /// Send a signal to running containers
    Kill(KillArgs),
    /// Stop containers and start them again
    Restart(StopArgs),
    /// Freeze running containers
    Pause(ContainersArgs),
    /// Let frozen containers go on
    Unpause(ContainersArgs),
    /// Give containers other limits, at once if they run
    Update(UpdateArgs),
    /// Wait until containers have stopped, and print their exit codes
    Wait(ContainersArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Everything that is known of containers, as JSON
    Inspect(InspectArgs),
    /// What running containers use
    Stats(StatsArgs),
    /// Copy files into a container, or out of it
    #[command(visible_alias = "copy")]
    Cp(CpArgs),
    /// Networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// The ports of the host that lead into a container
    Port(PortArgs),
    /// Volumes: folders that containers share and that outlive them
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Pull an image from its registry
    Pull(PullArgs),
    /// Load images from a file or folder
    Load(LoadArgs),
    /// List images
    Images(ListArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rmi(NamesArgs),
    /// All that koya keeps
    #[command(subcommand)]
    System(SystemCommand),
    /// What this host can do, and how to fix what it cannot
    Doctor(DoctorArgs),
    /// Show other engines the way to koya: podman, docker, containerd, Kubernetes
    #[command(subcommand)]
    Setup(SetupCommand),
    /// Print the completions of a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Keep a microVM. Started by the other commands
    #[command(hide = true)]
    Monitor {
        /// The microVM's id
        vm: String,
    },
}

/// `koya exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// What its process is.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Do not wait for it
    #[arg(short, long)]
    pub detach: bool,
    /// The container's name or id
    pub container: String,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `koya doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// "table", "json" for one object on each line, or a template as '{{.Check}}: {{.Status}}'
    #[arg(long, default_value = "table")]
    pub format: String,
}

/// How a list is shown.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// "table", "json" for one object on each line, or a template as '{{.ID}} {{.Names}}'
    #[arg(long, default_value = "table")]
    pub format: String,
    /// Do not shorten anything
    #[arg(long)]
    pub no_trunc: bool,
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
    /// Only those that fit, as name=web, id=0123, status=running, label=role=db, vm=web, exited=0
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Only this many, the newest ones, whatever they do
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub last: Option<usize>,
}

/// `koya start`
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Attach to what it writes, and pass signals on
    #[arg(short, long)]
    pub attach: bool,
    /// Attach what is typed here, too
    #[arg(short, long)]
    pub interactive: bool,
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya attach`
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Do not attach what is typed here
    #[arg(long)]
    pub no_stdin: bool,
    /// The container's name or id
    pub container: String,
}

/// `koya logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines, or "all"
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES", value_parser = crate::logs::tail)]
    pub tail: crate::logs::Tail,
    /// Only what was written since a time, as 2026-11-21T10:00:00Z, or this long ago, as 10m
    #[arg(long, value_name = "TIME", value_parser = crate::logs::time)]
    pub since: Option<std::time::SystemTime>,
    /// Only what was written before a time, or this long ago
    #[arg(long, value_name = "TIME", value_parser = crate::logs::time)]
    pub until: Option<std::time::SystemTime>,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// The container's name or id
    pub container: String,
}

/// `koya inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A template, as '{{.State.Status}}' or '{{json .Config}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Once, instead of again and again
    #[arg(long)]
    pub no_stream: bool,
    /// "table", "json" for one object on each line, or a template
    #[arg(long, default_value = "table")]
    pub format: String,
    /// Names or ids; all that run, if there are none
    pub containers: Vec<String>,
}

/// A command for several containers.
#[derive(Debug, Args)]
pub struct ContainersArgs {
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya update`
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The new limits.
    #[command(flatten)]
    pub shares: ShareArgs,
    /// Names or ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `koya stop`
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until SIGKILL; what the container was made with, if not given
    #[arg(short, long)]
    pub time: Option<u64>,
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
    /// An OCI layout, an archive of `docker save`, or a root file system as tar or folder; standard input if none is
    /// named
    #[arg(value_name = "PATH", value_parser = path)]
    pub path: Option<String>,
    /// The same, as docker's users name it
    #[arg(short, long, value_name = "PATH", value_parser = path, conflicts_with = "path")]
    pub input: Option<String>,
    /// Say nothing but the image's id
    #[arg(short, long)]
    pub quiet: bool,
}

/// `koya tag`
#[derive(Debug, Args)]
pub struct TagArgs {
    /// The image, by its name or id
    pub image: String,
    /// The new name, as app:2; of another image with this name, it is taken away
    pub name: String,
}

/// `koya port`
#[derive(Debug, Args)]
pub struct PortArgs {
    /// The container's name or id
    pub container: String,
    /// Only what leads to this port of it, as 80 or 53/udp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub port: Option<String>,
}

/// `koya volume`
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume, unless there is one
    Create {
        /// Its name
        name: String,
    },
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Everything that is known of volumes, as JSON
    Inspect(NamesArgs),
    /// Remove volumes that no container has
    #[command(visible_alias = "remove")]
    Rm(NamesArgs),
}

/// `koya system`
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Remove what nobody uses: containers that do not run, networks, images without a name
    Prune(PruneArgs),
}

/// `koya system prune`
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Images with a name, too
    #[arg(short, long)]
    pub all: bool,
    /// Volumes, too
    #[arg(long)]
    pub volumes: bool,
    /// Do not ask first
    #[arg(short, long)]
    pub force: bool,
}

/// `koya cp`
#[derive(Debug, Args)]
pub struct CpArgs {
    /// Copy what a link leads to, if the source is one
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Keep owners
    #[arg(short, long)]
    pub archive: bool,
    /// CONTAINER:PATH, a path of the host, or "-" for a tar on standard input
    pub source: OsString,
    /// A path of the host, CONTAINER:PATH, or "-" for a tar on standard output
    pub target: OsString,
}

/// `koya pull`
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Say nothing but the image's id
    #[arg(short, long)]
    pub quiet: bool,
    /// As debian:12, ghcr.io/owner/image, localhost:5000/app@sha256:…
    pub image: String,
}

/// `koya network`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network
    Create {
        /// Its range of addresses, as 10.5.0.0/16; chosen if there is none
        #[arg(long, value_name = "RANGE")]
        subnet: Vec<String>,
        /// Its gateway, of the first range
        #[arg(long, value_name = "ADDRESS")]
        gateway: Option<std::net::IpAddr>,
        /// Nothing of it leaves the host
        #[arg(long)]
        internal: bool,
        /// Containers do not find each other by name
        #[arg(long)]
        disable_dns: bool,
        /// mtu=NUMBER, isolate=true, vlan=NUMBER
        #[arg(short, long, value_name = "NAME=VALUE")]
        opt: Vec<String>,
        /// Its name
        name: String,
    },
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Everything that is known of networks, as JSON
    Inspect(NamesArgs),
    /// Remove networks that nobody uses
    #[command(visible_alias = "remove")]
    Rm(NamesArgs),
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
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_image_are_the_commands() {
        let cli = Cli::try_parse_from(["koya", "run", "--rm", "-it", "debian", "-d", "--all", "-t"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("{cli:?}")
        };
        assert!(run.rm && run.process.interactive && run.process.tty);
        assert_eq!(
            (run.image().as_str(), run.command().join(" ").as_str()),
            ("debian", "-d --all -t")
        );
    }
}
