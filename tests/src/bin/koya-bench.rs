//! Koya and its peers, side by side in one run: see `koya-bench --help` and `docs/benchmarks.md`.

use std::env;
use std::process::ExitCode;

use koya_tests::bench::options::{HELP, Options};
use koya_tests::bench::report::{self, table};
use koya_tests::bench::{BenchError, containers, suite};

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
    let words: Vec<String> = env::args().skip(1).collect();
    if let Some(("inside", rest)) = words.split_first().map(|(verb, rest)| (verb.as_str(), rest)) {
        return containers::inside::run(rest);
    }
    let Some(options) = Options::parse(words)? else {
        print!("{HELP}");
        return Ok(());
    };
    let results = suite::run(&options)?;
    report::write(&results, &options.out)?;
    print!("{}", table::markdown(&results));
    let (folder, name) = (options.out.display(), results.suite.name());
    let more = if results.timeline.phases().is_empty() {
        ""
    } else {
        ", containers-timeline.svg"
    };
    println!("\nWritten: {folder}/{name}.md, {name}.json, {name}.svg{more}");
    Ok(())
}
