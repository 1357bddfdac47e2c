//! `koya run` and `koya create`: what a container is to be.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use koya_sandbox::container::Ulimit;
use koya_sandbox::network::PortMapping;
use koya_sandbox::state::RestartPolicy;

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
    /// Set the variables that are in a file, one on each line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "FOLDER")]
    pub workdir: Option<String>,
    /// User, and group, by names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
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
    /// Start it again when it has ended: no, on-failure[:TIMES], always, unless-stopped
    #[arg(long, default_value_t, value_name = "POLICY", hide_default_value = true)]
    pub restart: RestartPolicy,
    /// A name for the container
    #[arg(long)]
    pub name: Option<String>,
    /// Its host name; by default its id
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// The program to run in place of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Return at once, and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// A distribution: its init is process 1, and runs its services
    #[arg(long, visible_alias = "boot")]
    pub system: bool,
    /// Take this folder as the image; what the container writes does not go there
    #[arg(short = 'D', long, value_name = "FOLDER")]
    pub directory: Option<String>,
    /// Put a small init before the command, which reaps processes and passes signals on
    #[arg(long)]
    pub init: bool,
    /// Make its root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Say something about it
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,
    /// How it is found out whether it is well.
    #[command(flatten)]
    pub health: HealthArgs,
    /// Signal that asks it to stop
    #[arg(long, value_name = "SIGNAL", value_parser = crate::signals::parse)]
    pub stop_signal: Option<u32>,
    /// Seconds that it has to stop, until SIGKILL
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub stop_timeout: u64,
    /// Tell afterwards when what was done
    #[arg(long, conflicts_with = "detach")]
    pub timings: bool,
    /// When to pull the image from its registry
    #[arg(long, default_value = "missing", value_parser = ["missing", "always", "never"])]
    pub pull: String,
    /// Where its output is kept: koya logs reads it
    #[arg(long, default_value = "k8s-file", value_parser = ["k8s-file", "none"])]
    pub log_driver: String,
    /// max-size=SIZE and max-file=NUMBER of the log
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// Where it is to live, and how large that is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What it has of the host.
    #[command(flatten)]
    pub host: HostArgs,
    /// Its limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Its rights.
    #[command(flatten)]
    pub rights: RightsArgs,
    /// Print help; -h is the host name, as docker's users expect
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// An image's name, or its file or folder; then the command, in place of the image's
    // One list, so that nothing behind the image is taken for an option.
    #[arg(
        help_heading = "Arguments",
        value_names = ["IMAGE", "COMMAND"],
        required_unless_present = "directory",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    image_and_command: Vec<String>,
}

impl RunArgs {
    /// The image as it was named.
    pub fn image(&self) -> String {
        match &self.directory {
            Some(folder) => super::path(folder).unwrap_or_else(|_| folder.clone()),
            None => self.image_and_command.first().cloned().unwrap_or_default(),
        }
    }

    /// The command; empty if it is the image's.
    pub fn command(&self) -> Vec<String> {
        let image = usize::from(self.directory.is_none());
        self.image_and_command.iter().skip(image).cloned().collect()
    }
}

/// How it is found out whether a container is well.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Run this in it, by its shell, from time to time: exit code 0 is health
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck")]
    pub health_cmd: Option<String>,
    /// How long to wait before each run, as 30s
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub health_interval: Option<Duration>,
    /// How long a run may take, as 30s
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub health_timeout: Option<Duration>,
    /// How long after its start failures do not count
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub health_start_period: Option<Duration>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub health_retries: Option<u32>,
    /// Run no health check, also if the image has one
    #[arg(long)]
    pub no_healthcheck: bool,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; want a time as 30s or 1m30s"))
}

/// Where a container is to live.
#[derive(Debug, Args)]
#[command(next_help_heading = "The microVM")]
pub struct PlaceArgs {
    /// Live in the microVM of this container
    #[arg(long, value_name = "CONTAINER", conflicts_with_all = ["vcpus", "vm_memory", "storage", "rooms"])]
    pub vm: Option<String>,
    /// Processors, 1 to 32; as many as --cpus needs, if not given
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub vcpus: Option<u8>,
    /// Memory, as 512m or 2g; if not given, what --memory needs, at least 512m
    #[arg(long, value_name = "SIZE", value_parser = crate::size::memory)]
    pub vm_memory: Option<u64>,
    /// Size of the disk that takes what its containers write
    #[arg(long, default_value = "10g", value_name = "SIZE", value_parser = crate::size::storage)]
    pub storage: u64,
    /// How many containers it can hold at a time, 1 to 7
    #[arg(long, default_value_t = 4, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub rooms: u8,
}

/// Limits of a container.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// What can be changed later.
    #[command(flatten)]
    pub shares: ShareArgs,
    /// Bytes per second that it reads from its disk
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    pub device_read_bps: Option<u64>,
    /// Bytes per second that it writes to its disk
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    pub device_write_bps: Option<u64>,
    /// Reads per second from its disk
    #[arg(long, value_name = "NUMBER")]
    pub device_read_iops: Option<u64>,
    /// Writes per second to its disk
    #[arg(long, value_name = "NUMBER")]
    pub device_write_iops: Option<u64>,
    /// Limits of its processes, as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<Ulimit>,
    /// How early it is killed for want of memory, -1000 to 1000
    #[arg(long, value_name = "SCORE", value_parser = clap::value_parser!(i32).range(-1000..=1000), allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
}

/// Limits that can be changed while a container runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct ShareArgs {
    /// Processors, as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = crate::limits::cpus)]
    pub cpus: Option<u64>,
    /// Share of the processors when others want them, too; 1024 is usual
    #[arg(short = 'c', long, value_name = "SHARES", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: Option<u64>,
    /// Processors it may run on, as 0-1,3
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory, as 512m
    #[arg(short, long, value_name = "SIZE", value_parser = crate::limits::memory)]
    pub memory: Option<u64>,
    /// Memory and swap together, as 1g; -1 is any swap
    #[arg(long, value_name = "SIZE", value_parser = crate::limits::swap, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// Memory that is taken from it last when memory is short
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    pub memory_reservation: Option<u64>,
    /// Processes and threads; -1 is any number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
}

/// Rights of a container.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rights")]
pub struct RightsArgs {
    /// Give it a capability, as NET_ADMIN, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = crate::limits::capability)]
    pub cap_add: Vec<String>,
    /// Take a capability from it, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = crate::limits::capability)]
    pub cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Set a parameter of its kernel, as net.ipv4.ip_forward=1
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// Groups that its user has beyond his own, by numbers
    #[arg(long, value_name = "GID")]
    pub group_add: Vec<u32>,
    /// Mount memory in it, as /run or /run:size=64m
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,
}

/// What a container has of the host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network and volumes")]
pub struct HostArgs {
    /// A network, or "none"; several are several interfaces
    #[arg(long, visible_alias = "net", value_name = "NAME")]
    pub network: Vec<String>,
    /// Publish a port: 8080:80, 127.0.0.1:8080:80, 53:53/udp, 8000-8009:8000-8009
    #[arg(short, long, value_name = "[IP:]HOST:CONTAINER[/udp]")]
    pub publish: Vec<PortMapping>,
    /// Another name by which containers of its networks find it
    #[arg(long, value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// A name server, in place of the network's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// A domain to look names up in
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// A line for /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// A folder or file of the host, or a named volume: ./src:/src, data:/var/lib/db, /etc/app.conf:/etc/app.conf:ro
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    pub volume: Vec<String>,
    /// The same in words: type=bind,source=./src,target=/src,readonly
    #[arg(long, value_name = "NAME=VALUE,…")]
    pub mount: Vec<String>,
}
