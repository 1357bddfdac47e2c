//! What becomes of templates that nobody uses. All this is done by whoever holds the lock, after which nobody needs to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{LOCK, SNAPSHOT};

/// As many templates as are kept, each some tens of MiB.
pub(super) const KEPT: usize = 8;

/// Removes what is not of this boot of the host, whose names begin so: templates, marks, and what was never finished.
pub(super) fn remove_stale(folder: &Path, prefix: &str) {
    for path in entries(folder) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name != LOCK && !name.starts_with(prefix) {
            remove(&path);
        }
    }
}

/// Removes all but the templates that were used last, and `own` in any case.
pub(super) fn keep_newest(folder: &Path, own: &Path) {
    let used = |path: &Path| fs::metadata(path).and_then(|known| known.modified());
    let others = entries(folder).filter(|path| path != own && path.join(SNAPSHOT).exists());
    let mut others: Vec<(SystemTime, PathBuf)> = others
        .filter_map(|path| Some((used(&path).ok()?, path)))
        .collect();
    others.sort();
    let excess = others.len().saturating_sub(KEPT.saturating_sub(1));
    for (_, path) in others.iter().take(excess) {
        remove(path);
    }
}

/// Removes a file or folder. Whoever has it open keeps it.
pub(super) fn remove(path: &Path) {
    // What cannot be removed is nobody's harm.
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}
