//! A cgroup of this run's own: what is in it and below, and the processor time that all of it has used.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::bench::BenchError;

const ALL: &str = "/sys/fs/cgroup";
/// How often it is tried to remove one that processes are just leaving, and how long to wait in between.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// See the module. Removed when dropped, if nobody is left in it.
pub(super) struct Cgroup(String);

impl Cgroup {
    /// One at the top.
    pub fn new(name: &str) -> Result<Self, BenchError> {
        let cgroup = Self(format!("/{name}"));
        let folder = cgroup.folder();
        fs::create_dir_all(&folder).map_err(BenchError::path("make", folder))?;
        Ok(cgroup)
    }

    /// The name of one in it.
    pub fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// Makes one in it and puts a process there.
    pub fn place(&self, name: &str, pid: u32) -> Result<(), BenchError> {
        let folder = self.folder().join(name);
        fs::create_dir_all(&folder).map_err(BenchError::path("make", &folder))?;
        let list = folder.join("cgroup.procs");
        fs::write(&list, pid.to_string()).map_err(BenchError::path("write", list))
    }

    /// The processor time that was used in it so far, in seconds.
    pub fn cpu_time(&self) -> Result<f64, BenchError> {
        let path = self.folder().join("cpu.stat");
        let text = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
        cpu_time(&text).ok_or(BenchError::Output {
            expected: "a cgroup's usage_usec",
            found: text,
        })
    }

    /// The processes in one of those in it, and below.
    pub fn processes(&self, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        walk(&self.folder().join(name), &mut |folder| {
            let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            all.extend(list.lines().map(str::to_owned));
        });
        all
    }

    fn folder(&self) -> PathBuf {
        Path::new(ALL).join(self.0.trim_start_matches('/'))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            // Somebody may still be in one of them.
            walk(&self.folder(), &mut |folder| drop(fs::remove_dir(folder)));
            if !self.folder().exists() {
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Goes through a folder, what is deepest first.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), visit);
    }
    visit(folder);
}

/// From the text of cpu.stat.
fn cpu_time(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(line.trim().parse::<f64>().ok()? / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_counts() {
        let text = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(cpu_time(text), Some(1.5));
        assert_eq!(cpu_time("user_usec 3\n"), None);
    }

    #[test]
    fn folders_are_visited_from_the_deepest() {
        let top = std::env::temp_dir().join(format!("koya-walk-{}", std::process::id()));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("file"), "").unwrap();
        let mut seen = Vec::new();
        walk(&top, &mut |folder| seen.push(folder.to_owned()));
        assert_eq!(seen, [top.join("a/b"), top.join("a"), top.clone()]);
        fs::remove_dir_all(top).unwrap();
    }
}
