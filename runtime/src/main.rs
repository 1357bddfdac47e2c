//! `koya-runtime`: an OCI runtime, in the place where engines have runc or crun, whose containers are in microVMs of
//! their own.
//!
//! ```text
//!  engine ─► create ──fork─► stand-in ──fork─► monitor ─► koya-vmm, virtiofsd ─► guest: agent, container
//!    │         └ returns        │ its pid is the container's    ▲
//!    ├─► start, kill, pause … ──┼───────── m.sock ──────────────┤
//!    ├─► exec ──────────────────┼───────── vsock ───────────────┼──────────────► agent
//!    └─◄ wait: exit code ───────┴─◄ exit code ──────────────────┘
//! ```

mod args;
mod cgroup;
mod console;
mod control;
mod create;
mod descriptors;
mod error;
mod events;
mod exec;
mod features;
mod hooks;
mod house;
mod lifecycle;
mod list;
mod log;
mod monitor;
mod record;
mod signal;
mod spec;
mod store;
mod streams;
mod threads;
mod update;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::descriptors::Inherited;
use crate::error::RuntimeError;
use crate::log::Log;
use crate::store::Store;

/// What every command has.
#[derive(Debug, Clone)]
pub struct Context {
    /// The containers.
    pub store: Store,
    /// Where errors go.
    pub log: Log,
    /// How cgroups are named.
    pub systemd_cgroup: bool,
    /// What processes that stay have to close.
    pub inherited: Inherited,
}

fn main() -> ExitCode {
    let inherited = Inherited::note();
    // Whoever ignores it has passed that on, and no end of a child could be waited for.
    // SAFETY: restores a default, before there is a second thread.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let cli = Cli::parse();
    let context = Context {
        store: Store::at(cli.root),
        log: Log::new(cli.log, cli.log_format),
        systemd_cgroup: cli.systemd_cgroup,
        inherited,
    };
    run(&context, &cli.command).unwrap_or_else(|error| {
        let line = error.one_line();
        context.log.failed(error.kind(), &line);
        let _ = writeln!(io::stderr(), "{line}");
        ExitCode::from(exec::exit_code(&cli.command, &error))
    })
}

fn run(context: &Context, command: &Command) -> Result<ExitCode, RuntimeError> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Create(args) => create::create(context, args).map(|_| ExitCode::SUCCESS),
        Command::Run(args) => create::run(context, args),
        Command::Start(args) => lifecycle::start(context, &args.id).map(done),
        Command::State(args) => lifecycle::state(context, &args.id).map(done),
        Command::Kill(args) => lifecycle::kill(context, args).map(done),
        Command::Delete(args) => lifecycle::delete(context, args).map(done),
        Command::Pause(args) => lifecycle::pause(context, &args.id).map(done),
        Command::Resume(args) => lifecycle::resume(context, &args.id).map(done),
        Command::List(args) => list::list(context, args).map(done),
        Command::Ps(args) => list::ps(context, args).map(done),
        Command::Exec(args) => exec::exec(context, args),
        Command::Update(args) => update::update(context, args).map(done),
        Command::Events(args) => events::events(context, args).map(done),
        Command::Spec(args) => spec::spec(args).map(done),
        Command::Features => features::features().map(done),
    }
}

/// Prints a line.
pub fn print(line: &str) -> Result<(), RuntimeError> {
    match writeln!(io::stdout(), "{line}") {
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(RuntimeError::system("write to standard output")),
    }
}
