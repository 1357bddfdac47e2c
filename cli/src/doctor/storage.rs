//! Where images and containers are kept: whether it can be written, has room, and can do what is asked of it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use koya_sandbox::state::new_id;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat, statvfs};

use super::finding::Finding;
use crate::size;

const HOME: &str = "home";
const SPACE: &str = "disk space";
const ABILITIES: &str = "file system";

/// Bytes below which not even an empty disk and the agent's archive fit.
const LEAST: u64 = 64 << 20;
/// Bytes below which most images do not fit.
const ENOUGH: u64 = 2 << 30;
/// Files that a few containers take.
const FILES: u64 = 1000;
/// Length of the file that shows whether holes take room.
const HOLE: u64 = 64 << 20;

/// All checks of the folder in which everything is kept, if it is known. Nothing stays there.
pub fn all(home: Option<&Path>) -> Vec<Finding> {
    let Some(home) = home else {
        let found = "unknown: neither KOYA_HOME nor XDG_DATA_HOME nor HOME is set";
        return vec![Finding::failed(HOME, found, "set KOYA_HOME to a folder of yours")];
    };
    // It is made by the first container or image.
    let existing = home.ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(Path::new("/"));
    let probe = Probe::make(existing);
    let mut findings = vec![writable(home, existing, &probe), space(existing)];
    if let Ok(probe) = probe {
        findings.push(abilities(&probe.0));
    }
    findings
}

/// A folder for trying things, which goes with this.
struct Probe(PathBuf);

impl Probe {
    fn make(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!(".koya-doctor-{}", new_id()?));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn writable(home: &Path, existing: &Path, probe: &io::Result<Probe>) -> Finding {
    match probe {
        Ok(_) if home == existing => Finding::ok(HOME, home.display().to_string()),
        Ok(_) => Finding::ok(HOME, format!("{}, not made yet", home.display())),
        Err(error) => Finding::failed(
            HOME,
            format!("cannot write to {existing:?}: {error}"),
            "set KOYA_HOME to a folder of yours, or make this one writable",
        ),
    }
}

fn space(folder: &Path) -> Finding {
    match statvfs(folder) {
        Ok(stat) => {
            let files = (stat.f_files > 0).then_some(stat.f_favail);
            room(stat.f_bavail.saturating_mul(stat.f_frsize), files)
        }
        Err(errno) => Finding::warning(SPACE, format!("unknown: {errno}"), format!("df {folder:?}")),
    }
}

/// Whether the bytes and files that are left suffice; some file systems do not count files.
fn room(bytes: u64, files: Option<u64>) -> Finding {
    let fix = "koya rm and koya rmi what is not needed, or set KOYA_HOME to a folder on a larger disk";
    let free = format!("{} free", size::show(bytes));
    match files {
        _ if bytes < LEAST => Finding::failed(SPACE, free, fix),
        Some(files) if files < FILES => {
            Finding::warning(SPACE, format!("{free}, but only {files} more files fit"), fix)
        }
        _ if bytes < ENOUGH => Finding::warning(SPACE, format!("{free}: images may not fit"), fix),
        _ => Finding::ok(SPACE, free),
    }
}

/// Tries what is done with files there.
fn abilities(folder: &Path) -> Finding {
    let elsewhere = "set KOYA_HOME to a folder on ext4, xfs or btrfs";
    let (file, sparse) = match hole(&folder.join("file")) {
        Ok(made) => made,
        Err(error) => {
            let found = format!("cannot hold the disk of a container: {error}");
            return Finding::failed(ABILITIES, found, elsewhere);
        }
    };
    if let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        return Finding::failed(ABILITIES, format!("has no locks: {errno}"), elsewhere);
    }
    let mode = Mode::from_raw_mode(0o600);
    if let Err(errno) = mknodat(CWD, folder.join("socket"), FileType::Socket, mode, 0) {
        return Finding::failed(ABILITIES, format!("has no sockets: {errno}"), elsewhere);
    }
    if !sparse {
        let found = "has no sparse files: the disk of each container takes its whole size";
        return Finding::warning(
            ABILITIES,
            found,
            format!("{elsewhere}, or make smaller disks with --storage"),
        );
    }
    if let Err(error) = fs::hard_link(folder.join("file"), folder.join("link")) {
        let found = format!(
            "has no hard links ({error}): a container does not start again once its image is removed"
        );
        return Finding::warning(ABILITIES, found, elsewhere);
    }
    Finding::ok(ABILITIES, "sparse files, hard links, locks, sockets")
}

/// A long file that is empty but for its end, and whether it takes less room than it is long.
fn hole(path: &Path) -> io::Result<(File, bool)> {
    let mut file = File::create_new(path)?;
    file.write_all(b"start")?;
    file.set_len(HOLE)?;
    file.write_all_at(b"end", HOLE.saturating_sub(4096))?;
    // Some count what a file takes only once it is written.
    file.sync_all()?;
    let taken = file.metadata()?.blocks().saturating_mul(512);
    Ok((file, taken < HOLE / 2))
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn room_is_measured_in_bytes_and_files() {
        for (bytes, files, status) in [
            (10 << 30, Some(1 << 20), Status::Ok),
            (10 << 30, None, Status::Ok),
            (10 << 30, Some(7), Status::Warning),
            (1 << 30, None, Status::Warning),
            (1 << 20, Some(1 << 20), Status::Failed),
        ] {
            let finding = room(bytes, files);
            assert_eq!(finding.status, status, "{finding:?}");
        }
    }

    #[test]
    fn a_home_that_is_not_made_yet_is_tried_and_left_as_it_was() {
        let fake = Fake::new().with("/existing/file", "");
        let existing = fake.host().path("/existing");
        let findings = all(Some(&existing.join("not/yet")));
        assert_eq!(findings.len(), 3);
        assert_eq!(findings[0].status, Status::Ok, "{findings:?}");
        assert!(findings[0].found.ends_with("not made yet"), "{findings:?}");
        assert_ne!(findings[2].status, Status::Failed, "{findings:?}");
        let left: Vec<_> = fs::read_dir(&existing)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["file"]);
    }

    #[test]
    fn a_home_that_cannot_be_written_fails() {
        // Nobody may make folders there, root neither.
        let findings = all(Some(Path::new("/proc/self/koya")));
        assert_eq!(findings[0].status, Status::Failed, "{findings:?}");
        assert!(findings[0].fix.as_ref().unwrap().contains("KOYA_HOME"));
        assert_eq!(all(None)[0].status, Status::Failed);
    }
}
