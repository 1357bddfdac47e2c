//! `koya system prune`: what nobody uses any more.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use koya_sandbox::network::DEFAULT;
use koya_sandbox::state::Container;

use crate::args::PruneArgs;
use crate::error::CliError;
use crate::home::Home;
use crate::lifecycle;
use crate::size;
use crate::volume::Volumes;

/// Bytes in the unit in which files tell what they take (stat(2)).
const BLOCK: u64 = 512;

/// `koya system prune`
///
/// # Errors
/// [`CliError`]
pub fn prune(args: &PruneArgs) -> Result<ExitCode, CliError> {
    if !args.force && !agreed(args)? {
        return Ok(ExitCode::SUCCESS);
    }
    let home = Home::find()?;
    // Volumes may be large, and are looked through only if they are meant.
    let mut folders = vec!["containers", "vms", "images"];
    folders.extend(args.volumes.then_some("volumes"));
    let taken = || -> u64 {
        folders
            .iter()
            .map(|folder| taken(&home.folder().join(folder)))
            .sum()
    };
    let before = taken();
    // In this order: what a container was the last one to use goes with it.
    let removed = [
        ("Containers", containers(&home)?),
        ("Networks", networks(&home)?),
        ("Volumes", if args.volumes { volumes(&home)? } else { Vec::new() }),
        ("Images", images(&home, args.all)?),
    ];
    for (kind, names) in removed.iter().filter(|(_, names)| !names.is_empty()) {
        crate::print(&format!("Deleted {kind}:\n{}\n", names.join("\n")))?;
    }
    let space = before.saturating_sub(taken());
    crate::print(&format!("Total reclaimed space: {}", size::show(space)))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks first: nothing of it comes back.
fn agreed(args: &PruneArgs) -> Result<bool, CliError> {
    let mut warning = vec![
        "all containers that do not run",
        "all networks that no container uses",
    ];
    warning.extend(args.volumes.then_some("all volumes that no container uses"));
    warning.push(if args.all {
        "all images that no container uses"
    } else {
        "all images without a name that no container uses"
    });
    let list: String = warning.iter().map(|line| format!("  - {line}\n")).collect();
    let mut out = io::stderr();
    write!(
        out,
        "WARNING! This will remove:\n{list}\nAre you sure you want to continue? [y/N] "
    )?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Notes what was removed, or complains and goes on: one that is in the way does not keep the others.
fn note(removed: &mut Vec<String>, name: impl Into<String>, outcome: Result<(), CliError>) {
    match outcome {
        Ok(()) => removed.push(name.into()),
        Err(error) => crate::complain(&error),
    }
}

fn containers(home: &Home) -> Result<Vec<String>, CliError> {
    let records = home.records()?;
    let mut removed = Vec::new();
    for container in records.list()?.iter().filter(|container| !container.is_active()) {
        // One that was started meanwhile stays.
        let outcome = lifecycle::remove(&records, container, false);
        note(&mut removed, &container.id, outcome);
    }
    Ok(removed)
}

fn networks(home: &Home) -> Result<Vec<String>, CliError> {
    let networks = home.networks()?;
    let still = home.records()?.still()?;
    let mut removed = Vec::new();
    for name in networks.list()?.into_iter().map(|network| network.name) {
        let uses = |container: &Container| container.settings.network.networks.contains(&name);
        let is_used = name == DEFAULT || still.containers.iter().any(uses);
        if !is_used && networks.users(&name)?.is_empty() {
            let outcome = networks.remove(&name).map_err(CliError::from);
            note(&mut removed, name, outcome);
        }
    }
    Ok(removed)
}

fn volumes(home: &Home) -> Result<Vec<String>, CliError> {
    let (volumes, records) = (Volumes::of(home), home.records()?);
    volumes.sweep();
    let mut removed = Vec::new();
    for name in volumes.names()? {
        match volumes.remove(&name, &records) {
            Err(CliError::VolumeInUse(..)) => {}
            outcome => note(&mut removed, name, outcome),
        }
    }
    Ok(removed)
}

fn images(home: &Home, all: bool) -> Result<Vec<String>, CliError> {
    let (store, containers) = (home.images()?, home.records()?.list()?);
    let used: BTreeSet<&str> = containers
        .iter()
        .map(|container| container.settings.image_id.as_str())
        .collect();
    let mut removed = Vec::new();
    for image in store.list()? {
        let id = image.id().to_string();
        if (all || image.names().is_empty()) && !used.contains(id.as_str()) {
            let outcome = store.remove(&id).map(drop).map_err(CliError::from);
            note(&mut removed, id, outcome);
        }
    }
    // What killed loads left.
    let _ = store.collect();
    Ok(removed)
}

/// Bytes that a folder takes; what has several names counts once.
fn taken(folder: &Path) -> u64 {
    let (mut bytes, mut seen, mut folders) = (0_u64, BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
            }
            if found.nlink() < 2 || found.is_dir() || seen.insert((found.dev(), found.ino())) {
                bytes = bytes.saturating_add(found.blocks().saturating_mul(BLOCK));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_two_names_takes_its_space_once() {
        let folder = std::env::temp_dir().join(format!("koya-taken-{}", std::process::id()));
        fs::create_dir_all(folder.join("below")).unwrap();
        let empty = taken(&folder);
        fs::write(folder.join("one"), vec![1; 64 << 10]).unwrap();
        let one = taken(&folder);
        fs::hard_link(folder.join("one"), folder.join("below/two")).unwrap();
        assert!(one >= empty + (64 << 10), "{empty} {one}");
        assert_eq!(taken(&folder), one);
        fs::remove_dir_all(folder).unwrap();
    }
}
