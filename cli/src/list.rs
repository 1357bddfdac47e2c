//! `koya ps`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use koya_sandbox::instance::{State, Status};

use crate::args::PsArgs;
use crate::error::CliError;
use crate::home::Home;
use crate::table::Table;

/// Characters of a command that a table shows.
const SHOWN_COMMAND: usize = 20;

/// `koya ps`
///
/// # Errors
/// [`CliError`]
pub fn ps(args: &PsArgs) -> Result<ExitCode, CliError> {
    let mut states = Home::find()?.containers()?.list()?;
    states.retain(|state| args.all || state.status == Status::Running);
    let mut table = Table::new(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]);
    for state in &states {
        if args.list.quiet {
            crate::print(&state.id)?;
        } else if args.list.format == "json" {
            crate::print(&serde_json::to_string(state).map_err(std::io::Error::from)?)?;
        } else {
            table.add([
                state.id.clone(),
                state.image.clone(),
                shorten(&state.command.join(" ")),
                ago(state.created),
                status(state),
                state.name.clone(),
            ]);
        }
    }
    if !args.list.quiet && args.list.format == "table" {
        crate::print(&table.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(state: &State) -> String {
    match (state.status, state.exit_code) {
        (Status::Creating, _) => "Created".to_owned(),
        (Status::Running, _) => "Up".to_owned(),
        (Status::Stopped, Some(code)) => format!("Exited ({code})"),
        // Whoever ran it died before it could say how it ended.
        (Status::Stopped, None) => "Dead".to_owned(),
    }
}

fn shorten(command: &str) -> String {
    let clean: String = command
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    let shown: String = clean.chars().take(SHOWN_COMMAND).collect();
    if shown.len() < clean.len() {
        format!("\"{shown}…\"")
    } else {
        format!("\"{shown}\"")
    }
}

/// How long ago a moment was, in the largest unit that fits.
pub fn ago(moment: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = now.saturating_sub(moment);
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let found = units.iter().find_map(|(length, unit)| {
        let count = seconds.checked_div(*length)?;
        (count > 0).then_some((count, *unit))
    });
    match found {
        Some((1, unit)) => format!("1 {unit} ago"),
        Some((count, unit)) => format!("{count} {unit}s ago"),
        None => "Less than a second ago".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_commands_fit_into_a_line() {
        assert_eq!(shorten("sh -c true"), "\"sh -c true\"");
        assert_eq!(shorten("\x1b[31m\n"), "\" [31m \"");
        assert_eq!(shorten(&"x".repeat(50)), format!("\"{}…\"", "x".repeat(20)));
    }

    #[test]
    fn times_are_in_the_largest_unit() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(ago(now - 200), "3 minutes ago");
        assert_eq!(ago(now - 90_000), "1 day ago");
        assert_eq!(ago(now + 5), "Less than a second ago");
    }
}
