//! `koya setup`: shows other engines the way to koya. It shows what it will change, asks, changes it, and can take it back.
//!
//! ```text
//!  engines ── which file, and what it is to say
//!  plan ───── the text with that, and without it again; a record in /var/lib/koya/setup tells what was there before
//!  json, toml ── changes of a text that leave the rest of it alone
//! ```

mod diff;
mod engines;
mod error;
mod file;
mod json;
mod kubernetes;
mod plan;
mod toml;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::args::{FileArgs, SetupCommand};
use crate::error::CliError;
use crate::list::printable;
use crate::terminal;
use engines::Engine;
use plan::{Record, Records};

pub use error::SetupError;

/// `koya setup`. The exit code is 1 if the one who was asked did not agree.
///
/// # Errors
/// [`CliError`]
pub fn setup(command: &SetupCommand) -> Result<ExitCode, CliError> {
    match command {
        SetupCommand::Podman(args) if args.file.undo => undo(&engines::podman(Vec::new()), &args.file),
        SetupCommand::Podman(args) => {
            let settings = engines::podman_settings(&engines::runtime(args)?, args.default);
            apply(&engines::podman(settings), &args.file)
        }
        SetupCommand::Docker(args) if args.file.undo => undo(&engines::docker(Vec::new()), &args.file),
        SetupCommand::Docker(args) => {
            let settings = engines::docker_settings(&engines::runtime(args)?, args.default);
            apply(&engines::docker(settings), &args.file)
        }
        SetupCommand::Containerd(args) if args.file.undo => {
            undo(&engines::containerd(Vec::new()), &args.file)
        }
        SetupCommand::Containerd(args) => {
            let path = target(&engines::containerd(Vec::new()), &args.file)?;
            let text = file::read(&path)?.unwrap_or_default();
            let settings = engines::containerd_settings(&text).map_err(|error| error.of(&path))?;
            let mut engine = engines::containerd(settings);
            engine.warnings = engines::containerd_warnings(&text, &args.file.root);
            apply(&engine, &args.file)
        }
        SetupCommand::Kubernetes(args) => kubernetes::kubernetes(args),
    }
}

/// The engine's file on this host, or in this image of one.
fn target(engine: &Engine, args: &FileArgs) -> Result<PathBuf, SetupError> {
    file::behind_links(&args.root, &file::below(&args.root, Path::new(engine.path)))
}

fn apply(engine: &Engine, args: &FileArgs) -> Result<ExitCode, CliError> {
    let path = target(engine, args)?;
    let now = file::read(&path)?;
    let text = now.as_deref().unwrap_or_default();
    let after = engine.syntax.with(text, &engine.settings);
    let after = after.map_err(|error| error.of(&path))?;
    for warning in &engine.warnings {
        crate::warn(warning);
    }
    if now.as_ref() == Some(&after) {
        crate::print(&format!("{}: nothing to be done", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !agreed(&path, now.as_deref(), Some(&after), args)? {
        return Ok(refused(args));
    }
    let records = Records::of(&args.root, engine.name);
    let record = record(
        engine,
        (&path, &args.root),
        now.as_deref(),
        after,
        records.read()?,
    );
    let record = record.map_err(|error| error.of(&path))?;
    unchanged(&path, now.as_deref())?;
    // In this order: what is recorded and not done can be taken back, too.
    records.keep(&record)?;
    file::make_folder(&path, None)?;
    file::write(&path, &record.after, None)?;
    told(&path, engine.next)
}

/// What was done, with what was done before: taking it back leaves nothing of either.
fn record(
    engine: &Engine,
    (path, root): (&Path, &Path),
    now: Option<&str>,
    after: String,
    old: Option<Record>,
) -> Result<Record, error::SyntaxError> {
    let mut record = Record {
        before: now.map(str::to_owned),
        after,
        settings: engine.settings.clone(),
        folders: file::missing_folders(path, root),
    };
    if let (Some(old), Some(now)) = (old, now) {
        record.before = engine.syntax.without(now, &old)?.text;
        let is_new = |setting: &plan::Setting| {
            let mut settings = engine.settings.iter();
            settings.all(|other| other.keys != setting.keys)
        };
        record.settings.extend(old.settings.into_iter().filter(is_new));
        record.folders.extend(old.folders);
    }
    Ok(record)
}

fn undo(engine: &Engine, args: &FileArgs) -> Result<ExitCode, CliError> {
    let path = target(engine, args)?;
    let records = Records::of(&args.root, engine.name);
    let now = file::read(&path)?;
    let (Some(record), Some(text)) = (records.read()?, now.as_deref()) else {
        if !args.dry_run {
            records.forget()?;
        }
        crate::print(&format!("{}: nothing to be taken back", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let undone = engine.syntax.without(text, &record);
    let undone = undone.map_err(|error| error.of(&path))?;
    for name in &undone.left {
        let path = path.display();
        crate::warn(&format!(
            "{path}: somebody changed {name} since; it is left as it is"
        ));
    }
    if undone.text == now {
        crate::print(&format!("{}: nothing to be taken back", path.display()))?;
    } else {
        if !agreed(&path, Some(text), undone.text.as_deref(), args)? {
            return Ok(refused(args));
        }
        unchanged(&path, Some(text))?;
        match &undone.text {
            Some(text) => file::write(&path, text, None)?,
            None => {
                file::remove(&path)?;
                for folder in &record.folders {
                    // Somebody may use them now.
                    let _ = fs::remove_dir(file::below(&args.root, folder));
                }
            }
        }
        told(&path, engine.after_undo)?;
    }
    if !args.dry_run {
        records.forget()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what would be changed, and asks.
fn agreed(path: &Path, before: Option<&str>, after: Option<&str>, args: &FileArgs) -> Result<bool, CliError> {
    let name = |text: Option<&str>| text.map_or("/dev/null".into(), |_| path.display().to_string());
    let changes = diff::unified(before.unwrap_or_default(), after.unwrap_or_default());
    crate::print(&format!("--- {}\n+++ {}", name(before), name(after)))?;
    for line in changes.lines() {
        // Tabs are what some are indented by.
        let line: Vec<_> = line.split('\t').map(printable).collect();
        crate::print(&line.join("\t"))?;
    }
    if args.yes || args.dry_run {
        return Ok(args.yes);
    }
    if !terminal::is_there() {
        return Err(SetupError::NobodyToAsk.into());
    }
    let mut out = io::stderr();
    write!(out, "\nChange it? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whoever only wanted to see it has got what he wanted.
fn refused(args: &FileArgs) -> ExitCode {
    ExitCode::from(u8::from(!args.dry_run))
}

/// The question may have been open for long.
fn unchanged(path: &Path, before: Option<&str>) -> Result<(), SetupError> {
    match file::read(path)?.as_deref() == before {
        true => Ok(()),
        false => Err(SetupError::Overtaken(path.to_owned())),
    }
}

fn told(path: &Path, next: &str) -> Result<ExitCode, CliError> {
    crate::print(&format!("\n{}: changed", path.display()))?;
    if !next.is_empty() {
        let lines: Vec<_> = next.lines().map(|line| format!("  {line}")).collect();
        crate::print(&format!("Next:\n{}", lines.join("\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}
