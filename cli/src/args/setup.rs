//! `koya setup` on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Whom to show the way.
#[derive(Debug, Subcommand)]
pub enum SetupCommand {
    /// podman: names the runtime koya in /etc/containers/containers.conf.d/koya.conf
    Podman(EngineArgs),
    /// docker: names the runtime koya in /etc/docker/daemon.json
    Docker(EngineArgs),
    /// containerd's CRI plugin: names the handler koya in /etc/containerd/config.toml
    Containerd(ContainerdArgs),
    /// Kubernetes: prints a RuntimeClass for kubectl apply -f -, and says what each node needs
    Kubernetes(KubernetesArgs),
}

/// How a file of the host is changed.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Do not ask first
    #[arg(short, long)]
    pub yes: bool,
    /// Only show what would be changed
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Take back what this command changed, and nothing else
    #[arg(long)]
    pub undo: bool,
    /// The folder that stands for /, as for an image of a host
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub root: PathBuf,
}

/// `koya setup podman`, `koya setup docker`
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// How it is changed.
    #[command(flatten)]
    pub file: FileArgs,
    /// Use koya wherever no other runtime is named
    #[arg(long, conflicts_with = "undo")]
    pub default: bool,
    /// Where koya-runtime is, as the engine sees it; found if it is not given
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    pub runtime: Option<PathBuf>,
}

/// `koya setup containerd`
#[derive(Debug, Args)]
pub struct ContainerdArgs {
    /// How it is changed.
    #[command(flatten)]
    pub file: FileArgs,
}

/// `koya setup kubernetes`
#[derive(Debug, Args)]
pub struct KubernetesArgs {
    /// Write it into a file instead
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
