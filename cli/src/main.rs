//! `koya`: containers in microVMs, from a terminal.

mod args;
mod attach;
mod error;
mod home;
mod images;
mod lifecycle;
mod list;
mod run;
mod signals;
mod size;
mod table;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::error::CliError;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Docker's code for a command line that is wrong.
            return ExitCode::from(if error.use_stderr() { 125 } else { 0 });
        }
    };
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => run::exec(args),
        Command::Ps(args) => list::ps(args),
        Command::Stop(args) => lifecycle::stop(args),
        Command::Kill(args) => lifecycle::kill(args),
        Command::Rm(args) => lifecycle::rm(args),
        Command::Load(args) => images::load(args),
        Command::Images(args) => images::list(args),
        Command::Rmi(args) => images::rmi(args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "koya", &mut script);
            print(String::from_utf8_lossy(&script).trim_end()).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(error.exit_code())
    })
}

/// Prints a line.
fn print(line: &str) -> Result<(), CliError> {
    match writeln!(io::stdout(), "{line}") {
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Tells an error in one line.
fn complain(error: &CliError) {
    let _ = writeln!(io::stderr(), "koya: {}", error.one_line());
}
