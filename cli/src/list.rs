//! `koya ps`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use koya_sandbox::network::Networks;
use koya_sandbox::state::{Container, HealthStatus, Status, now};
use serde_json::{Value, json};

use crate::args::PsArgs;
use crate::error::CliError;
use crate::home::Home;
use crate::show::{self, Form};

/// Characters of a command that a table shows.
const SHOWN_COMMAND: usize = 20;
/// Digits of an image's digest that a table shows.
const SHOWN_DIGEST: usize = 12;
/// What `--filter` knows.
const FILTERS: &str = "id, name, label, status, exited, vm, ancestor, restart, health";

/// `koya ps`
///
/// # Errors
/// [`CliError`]
pub fn ps(args: &PsArgs) -> Result<ExitCode, CliError> {
    let form = Form::parse(&args.list.format)?;
    let filters = args.filter.iter().map(|text| Filter::parse(text));
    let mut filters = filters.collect::<Result<Vec<_>, _>>()?;
    let home = Home::find()?;
    let mut all = home.records()?.list()?;
    for filter in filters.iter_mut().filter(|filter| filter.key == "vm") {
        // A microVM is known by the names of those who live in it.
        if let Some(named) = all.iter().find(|container| container.name == filter.value) {
            filter.value.clone_from(&named.vm);
        }
    }
    let by_status = filters
        .iter()
        .any(|filter| matches!(filter.key.as_str(), "status" | "exited"));
    all.retain(|container| {
        (args.all || args.last.is_some() || by_status || is_up(container))
            && filters.iter().all(|filter| filter.fits(container))
    });
    all.truncate(args.last.unwrap_or(usize::MAX));
    if args.list.quiet {
        for container in &all {
            crate::print(&container.id)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let networks = home.networks()?;
    let lines: Vec<_> = all
        .iter()
        .map(|container| line(container, &ports(&networks, container), args.list.no_trunc))
        .collect();
    let columns = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("VM", "VM"),
        ("NAMES", "Names"),
    ];
    show::list(&form, columns, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn is_up(container: &Container) -> bool {
    matches!(
        container.status,
        Status::Running | Status::Paused | Status::Restarting
    )
}

/// A container as a list tells of it, in docker's words.
fn line(container: &Container, ports: &str, whole: bool) -> Value {
    let settings = &container.settings;
    let labels: Vec<_> = settings
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let command = settings.spec.process.args.join(" ");
    json!({
        "ID": container.id,
        "Image": image(&settings.image, whole),
        "Command": if whole { format!("\"{}\"", printable(&command)) } else { shorten(&command) },
        "CreatedAt": date(container.created),
        "RunningFor": ago(container.created),
        "State": word(container.status),
        "Status": status(container),
        "Ports": ports,
        "Labels": printable(&labels.join(",")),
        "VM": container.vm,
        "Names": container.name,
    })
}

/// Where the host's ports lead into a container that runs.
fn ports(networks: &Networks, container: &Container) -> String {
    if !is_up(container) {
        return String::new();
    }
    let attached = networks.attached(&container.id).ok().flatten();
    let ports = attached
        .iter()
        .flat_map(|attached| &attached.ports)
        .map(ToString::to_string);
    ports.collect::<Vec<_>>().join(", ")
}

/// A status in docker's word.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Created | Status::Creating => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Stopped => "exited",
        Status::Dead => "dead",
    }
}

/// How it is doing, behind how long it is up.
fn health(container: &Container) -> String {
    match container.health.as_ref().map(|health| health.status) {
        None => String::new(),
        Some(HealthStatus::Starting) => " (health: starting)".to_owned(),
        Some(found) => format!(" ({})", found.word()),
    }
}

fn status(container: &Container) -> String {
    let code = container.exit.as_ref().map_or(0, |exit| exit.code);
    match container.status {
        Status::Created | Status::Creating => "Created".to_owned(),
        Status::Running => format!("Up {}{}", since(container.started), health(container)),
        Status::Paused => format!("Up {} (Paused)", since(container.started)),
        Status::Restarting => format!("Restarting ({code}) {}", ago(container.finished)),
        Status::Stopped => format!("Exited ({code}) {}", ago(container.finished)),
        Status::Dead => "Dead".to_owned(),
    }
}

/// Text without anything that a terminal would act on, or that turns it around.
pub fn printable(text: &str) -> String {
    let hostile = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|letter| if hostile(letter) { ' ' } else { letter })
        .collect()
}

/// An image as the user named it; of a digest, as much as tells it from others.
fn image(name: &str, whole: bool) -> String {
    match name.strip_prefix("sha256:") {
        Some(digest) if !whole => digest.chars().take(SHOWN_DIGEST).collect(),
        _ => printable(name),
    }
}

fn shorten(command: &str) -> String {
    let clean = printable(command);
    let shown: String = clean.chars().take(SHOWN_COMMAND).collect();
    if shown.len() < clean.len() {
        format!("\"{shown}…\"")
    } else {
        format!("\"{shown}\"")
    }
}

/// A moment, in nanoseconds since 1970, as a date; docker's for never is the year 1.
pub fn date(moment: u64) -> String {
    match moment {
        0 => "0001-01-01T00:00:00Z".to_owned(),
        moment => SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_nanos(moment))
            .map(|time| humantime::format_rfc3339_nanos(time).to_string())
            .unwrap_or_default(),
    }
}

/// How long ago a moment was, in the largest unit that fits.
pub fn ago(moment: u64) -> String {
    format!("{} ago", since(moment))
}

fn since(moment: u64) -> String {
    let seconds = now().saturating_sub(moment) / 1_000_000_000;
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let found = units.iter().find_map(|(length, unit)| {
        let count = seconds.checked_div(*length)?;
        (count > 0).then_some((count, *unit))
    });
    match found {
        Some((1, unit)) => format!("1 {unit}"),
        Some((count, unit)) => format!("{count} {unit}s"),
        None => "Less than a second".to_owned(),
    }
}

/// What a container must be to be listed.
struct Filter {
    key: String,
    value: String,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, CliError> {
        let known = |key: &str| FILTERS.split(", ").any(|known| known == key);
        match text.split_once('=') {
            Some((key, value)) if known(key) => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(CliError::Filter(text.to_owned(), FILTERS)),
        }
    }

    fn fits(&self, container: &Container) -> bool {
        let value = self.value.as_str();
        match self.key.as_str() {
            "id" => container.id.starts_with(value),
            "name" => container.name.contains(value),
            "vm" => container.vm.starts_with(value),
            "ancestor" => container.settings.image == value || container.settings.image_id.contains(value),
            "health" => container.health.as_ref().map_or("none", |it| it.status.word()) == value,
            "restart" => container.settings.restart.to_string() == value,
            "status" => word(container.status) == value,
            "exited" => {
                let code = container.exit.as_ref().map(|exit| exit.code.to_string());
                !container.is_active() && code.as_deref() == Some(value)
            }
            _ => match value.split_once('=') {
                Some((name, value)) => container
                    .settings
                    .labels
                    .get(name)
                    .is_some_and(|found| found == value),
                None => container.settings.labels.contains_key(value),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_commands_fit_into_a_line() {
        assert_eq!(shorten("sh -c true"), "\"sh -c true\"");
        assert_eq!(shorten("\x1b[31m\n\x7f\u{202e}"), "\" [31m   \"");
        assert_eq!(shorten(&"x".repeat(50)), format!("\"{}…\"", "x".repeat(20)));
    }

    #[test]
    fn digests_are_shortened_and_names_are_not() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(image(&digest, false), "0123456789ab");
        assert_eq!(image(&digest, true), digest);
        assert_eq!(image("localhost:5000/app:1", false), "localhost:5000/app:1");
    }

    #[test]
    fn times_are_in_the_largest_unit() {
        let seconds = |count: u64| count * 1_000_000_000;
        assert_eq!(ago(now() - seconds(200)), "3 minutes ago");
        assert_eq!(ago(now() - seconds(90_000)), "1 day ago");
        assert_eq!(ago(now() + seconds(5)), "Less than a second ago");
        assert_eq!(date(1_000_000_000), "1970-01-01T00:00:01.000000000Z");
    }

    #[test]
    fn filters_that_nobody_knows_are_named() {
        for text in ["colour=red", "name"] {
            let error = Filter::parse(text).map(drop).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        assert_eq!(Filter::parse("label=a=b").unwrap().value, "a=b");
    }
}
