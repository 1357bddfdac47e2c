//! Koya and its peers, side by side in one run: see `koya-bench --help` and `docs/benchmarks.md`.

use std::env;
use std::process::ExitCode;

use koya_tests::bench::options::{HELP, Options};
use koya_tests::bench::report::{self, table};
use koya_tests::bench::{BenchError, containers, engines, suite};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
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

fn run() -> Result<ExitCode, BenchError> {
    let words: Vec<String> = env::args().skip(1).collect();
    // What the suites run of this program in guests, and in the place of runtimes.
    match words.split_first().map(|(verb, rest)| (verb.as_str(), rest)) {
        Some(("inside", rest)) => return containers::inside::run(rest).map(|()| ExitCode::SUCCESS),
        Some(("files", rest)) => return engines::files::run(rest).map(|()| ExitCode::SUCCESS),
        Some(("stage", rest)) => return engines::stage::run(rest),
        _ => {}
    }
    let Some(options) = Options::parse(words)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let results = suite::run(&options)?;
    let written = report::write(&results, &options.out)?;
    print!("{}", table::markdown(&results));
    println!("\nWritten to {}: {}", options.out.display(), written.join(", "));
    Ok(ExitCode::SUCCESS)
}
