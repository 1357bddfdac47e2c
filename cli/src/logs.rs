//! `koya logs`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use koya_sandbox::log::{Entry, Follower, Stream};
use koya_sandbox::state::Records;

use crate::args::LogsArgs;
use crate::error::CliError;
use crate::home::Home;

/// Between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(50);

/// How many of the last lines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Every one that is kept.
    All,
    /// This many.
    Last(usize),
}

/// Reads `--tail`.
///
/// # Errors
/// What would be right, if it is no number.
pub fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail::All),
        number => match number.parse() {
            Ok(number) => Ok(Tail::Last(number)),
            Err(_) => Err(format!("{text:?} is no number of lines: write one, or \"all\"")),
        },
    }
}

/// Reads a time: a date, seconds since 1970, or how long ago it was.
///
/// # Errors
/// What would be right, if it is none.
pub fn time(text: &str) -> Result<SystemTime, String> {
    let wrong = || {
        format!("{text:?} is no time: write as 2026-11-21T10:00:00Z, 1795255200, or 10m for ten minutes ago")
    };
    let midnight = format!("{text}T00:00:00Z");
    if let Ok(time) = humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339(&midnight)) {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse() {
        return SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .ok_or_else(wrong);
    }
    let ago = humantime::parse_duration(text).map_err(|_| wrong())?;
    SystemTime::now().checked_sub(ago).ok_or_else(wrong)
}

/// `koya logs`
///
/// # Errors
/// [`CliError`]
pub fn logs(args: &LogsArgs) -> Result<ExitCode, CliError> {
    let records = Home::find()?.records()?;
    let container = records.find(&args.container)?;
    if container.settings.log.max_size == 0 {
        return Err(CliError::NoLog(container.name));
    }
    match show(args, &records, &container.id) {
        // Whoever reads has had enough.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

fn show(args: &LogsArgs, records: &Records, id: &str) -> Result<(), CliError> {
    let mut follower = Follower::from_start(&records.folder(id));
    show_past(args, &mut follower)?;
    if args.follow {
        follow(args, &mut follower, records, id)?;
    }
    Ok(())
}

/// Shows what has been written.
fn show_past(args: &LogsArgs, follower: &mut Follower) -> Result<(), CliError> {
    let mut last = VecDeque::new();
    let mut whole = 0_usize;
    while let Some(entry) = follower.next_entry()? {
        let early = args.since.is_some_and(|since| entry.time < since);
        if early || args.until.is_some_and(|until| entry.time >= until) {
            continue;
        }
        let Tail::Last(lines) = args.tail else {
            print(args, &entry)?;
            continue;
        };
        whole = whole.saturating_add(usize::from(entry.is_whole()));
        last.push_back(entry);
        while whole > lines {
            let gone = last.pop_front();
            whole = whole.saturating_sub(usize::from(gone.is_some_and(|gone: Entry| gone.is_whole())));
        }
    }
    for entry in &last {
        print(args, entry)?;
    }
    Ok(())
}

/// Shows what is written, until the container has ended.
fn follow(args: &LogsArgs, follower: &mut Follower, records: &Records, id: &str) -> Result<(), CliError> {
    loop {
        // Looked at first, so that what it wrote last is seen.
        let ended = records.look(id).is_none_or(|now| !now.is_active());
        while let Some(entry) = follower.next_entry()? {
            if args.until.is_some_and(|until| entry.time >= until) {
                return Ok(());
            }
            print(args, &entry)?;
        }
        if ended || args.until.is_some_and(|until| SystemTime::now() >= until) {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

fn print(args: &LogsArgs, entry: &Entry) -> Result<(), CliError> {
    let mut line = Vec::with_capacity(entry.text.len().saturating_add(40));
    if args.timestamps {
        line.extend_from_slice(humantime::format_rfc3339_nanos(entry.time).to_string().as_bytes());
        line.push(b' ');
    }
    line.extend_from_slice(&entry.text);
    match entry.stream {
        Stream::Stdout => io::stdout().write_all(&line)?,
        Stream::Stderr => io::stderr().write_all(&line)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_numbers_or_ages() {
        let epoch = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(time("1970-01-01T00:01:00Z"), Ok(epoch(60)));
        assert_eq!(time("1970-01-02"), Ok(epoch(86_400)));
        assert_eq!(time("61"), Ok(epoch(61)));
        let ago = SystemTime::now().duration_since(time("10m").unwrap()).unwrap();
        assert!(
            (Duration::from_secs(599)..Duration::from_secs(660)).contains(&ago),
            "{ago:?}"
        );
        assert!(time("yesterday").unwrap_err().contains("10m"));
        assert_eq!((tail("all"), tail("7")), (Ok(Tail::All), Ok(Tail::Last(7))));
        assert!(tail("x").is_err());
    }
}
