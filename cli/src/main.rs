//! `koya`: containers in microVMs, from a terminal.

mod args;
mod attach;
mod copy;
mod doctor;
mod error;
mod exec;
mod home;
mod images;
mod inspect;
mod lifecycle;
mod limits;
mod list;
mod logs;
mod network;
mod port;
mod prune;
mod run;
mod settings;
mod setup;
mod show;
mod signals;
mod size;
mod stats;
mod table;
mod template;
mod terminal;
mod update;
mod volume;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

use koya_sandbox::parts::Parts;

use crate::args::{Cli, Command, SystemCommand};
use crate::error::CliError;
use crate::home::Home;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Create(args) => run::create(args),
        Command::Start(args) => run::start_again(args),
        Command::Attach(args) => run::attach(args),
        Command::Exec(args) => exec::exec(args),
        Command::Logs(args) => logs::logs(args),
        Command::Ps(args) => list::ps(args),
        Command::Stop(args) => lifecycle::stop(args),
        Command::Kill(args) => lifecycle::kill(args),
        Command::Restart(args) => lifecycle::restart(args),
        Command::Pause(args) => lifecycle::pause(args),
        Command::Unpause(args) => lifecycle::unpause(args),
        Command::Update(args) => update::update(args),
        Command::Wait(args) => lifecycle::wait(args),
        Command::Rm(args) => lifecycle::rm(args),
        Command::Inspect(args) => inspect::inspect(args),
        Command::Stats(args) => stats::stats(args),
        Command::Cp(args) => copy::cp(args),
        Command::Network(command) => network::network(command),
        Command::Port(args) => port::port(args),
        Command::Volume(command) => volume::volume(command),
        Command::System(SystemCommand::Prune(args)) => prune::prune(args),
        Command::Pull(args) => images::pull(args),
        Command::Load(args) => images::load(args),
        Command::Images(args) => images::list(args),
        Command::Tag(args) => images::tag(args),
        Command::Rmi(args) => images::rmi(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Setup(command) => setup::setup(command),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "koya", &mut script);
            print(String::from_utf8_lossy(&script).trim_end()).map(|()| ExitCode::SUCCESS)
        }
        Command::Monitor { vm } => monitor(vm),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(error.exit_code())
    })
}

/// Help that was asked for, or what is wrong with the command line, with docker's code for that.
fn misused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        let words = std::env::args_os().skip(1);
        let words = words.map(|word| word.to_string_lossy().into_owned());
        complain(&CliError::Usage(args::one_line(error, words)));
    }
    ExitCode::from(125)
}

/// Keeps a microVM; standard input is the socket of whoever started it.
fn monitor(vm: &str) -> Result<ExitCode, CliError> {
    let first = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Programs that it starts have no business with that socket.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
    let home = Home::find()?;
    let (records, shared, parts) = (home.records()?, home.shared(), Parts::find()?);
    koya_sandbox::monitor::serve(&records, &shared, &parts, &run::program()?, vm, first)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a line.
fn print(line: &str) -> Result<(), CliError> {
    match writeln!(io::stdout(), "{line}") {
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Says something that is no error of this program.
fn warn(words: &str) {
    let _ = writeln!(io::stderr(), "koya: {}", list::printable(words));
}

/// Tells an error in one line.
fn complain(error: &CliError) {
    let _ = writeln!(io::stderr(), "koya: {}", error.one_line());
}
