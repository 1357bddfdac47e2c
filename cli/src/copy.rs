//! `koya cp`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use koya_sandbox::copy::{self, CopyOptions, Ends};

use crate::args::CpArgs;
use crate::error::CliError;
use crate::home::{Home, agent_of};

/// `koya cp`
///
/// # Errors
/// [`CliError`]
pub fn cp(args: &CpArgs) -> Result<ExitCode, CliError> {
    let options = CopyOptions {
        follow: args.follow_link,
        archive: args.archive,
    };
    match (copy::split(&args.source), copy::split(&args.target)) {
        (None, Some((container, path))) => copy_in(container, &args.source, path, options),
        (Some((container, path)), None) => copy_out(container, path, &args.target, options),
        _ => Err(CliError::CopyEnds),
    }
}

fn copy_in(
    container: &str,
    source: &OsStr,
    target: &str,
    options: CopyOptions,
) -> Result<ExitCode, CliError> {
    with(container, |ends| match source == "-" {
        true => copy::copy_in_stream(ends, io::stdin().lock(), target, options),
        false => copy::copy_in(ends, Path::new(source), target, options),
    })
}

fn copy_out(
    container: &str,
    source: &str,
    target: &OsStr,
    options: CopyOptions,
) -> Result<ExitCode, CliError> {
    with(container, |ends| {
        if target == "-" {
            return copy::copy_out_stream(ends, source, io::stdout().lock(), options);
        }
        let unpacked = copy::copy_out(ends, source, Path::new(target), options)?;
        if unpacked.skipped > 0 {
            crate::warn(&format!(
                "{} device nodes or sockets were left out",
                unpacked.skipped
            ));
        }
        Ok(())
    })
}

fn with(
    container: &str,
    work: impl FnOnce(Ends<'_>) -> Result<(), copy::CopyError>,
) -> Result<ExitCode, CliError> {
    let records = Home::find()?.records()?;
    let container = records.find(container)?;
    let agent = agent_of(&records, &container)?;
    work(Ends {
        agent: &agent,
        vsock: &records.vsock(&container),
        container: &container.id,
    })?;
    Ok(ExitCode::SUCCESS)
}
