//! Koya and its peers, side by side in one run: see `koya-bench --help` and `docs/benchmarks.md`.

use std::env;
use std::process::ExitCode;

use koya_tests::bench::options::{HELP, Options};
use koya_tests::bench::report::{self, table};
use koya_tests::bench::{BenchError, suite};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ BenchError::Usage(_)) => {
            eprintln!("koya-bench: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("koya-bench: {}", error.in_full());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), BenchError> {
    let Some(options) = Options::parse(env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let results = suite::run(&options)?;
    report::write(&results, &options.out)?;
    print!("{}", table::markdown(&results));
    let (folder, name) = (options.out.display(), results.suite.name());
    println!("\nWritten: {folder}/{name}.md, {name}.json, {name}.svg");
    Ok(())
}
