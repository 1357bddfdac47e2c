//! Waits until what a sample has started is gone: nobody's sample is to pay for another's.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::sheet::say;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);

/// The processes that there are beside a sample's.
pub(super) struct Calm<'a> {
    scratch: &'a Path,
    others: Vec<String>,
}

impl<'a> Calm<'a> {
    /// Those that there are now.
    pub fn now(scratch: &'a Path) -> Self {
        // One that was started just now has no command line yet.
        thread::sleep(LOOK);
        Self {
            scratch,
            others: processes(scratch),
        }
    }

    /// Waits for the end of all that have come since; tells of one that stays.
    pub fn wait(&self, limit: Duration) {
        let begun = Instant::now();
        let is_new = |pid: &String| !self.others.contains(pid);
        while let Some(pid) = processes(self.scratch).into_iter().find(is_new) {
            if begun.elapsed() >= limit {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                say(&format!("process {pid} stays behind a sample: {line}"));
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

/// Processes whose program is in a folder, or on whose command line it is named: runtimes, shims, conmon and what podman
/// leaves to clear up.
fn processes(folder: &Path) -> Vec<String> {
    let is_one = |pid: &String| {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = folder.as_os_str().as_bytes();
        exe.is_ok_and(|exe| exe.starts_with(folder)) || line.windows(name.len()).any(|part| part == name)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(is_one)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_has_come_is_waited_for_and_what_was_there_is_not() {
        const SOON: Duration = Duration::from_millis(300);
        let folder = std::env::temp_dir().join(format!("koya-calm-{}", std::process::id()));
        // Ends with its input: the folder is nowhere.
        let start = || {
            let mut cat = Command::new("cat");
            cat.arg("-")
                .arg(&folder)
                .stdin(Stdio::piped())
                .stderr(Stdio::null());
            cat.spawn().unwrap()
        };
        let mut old = start();
        let calm = Calm::now(&folder);
        assert_eq!(calm.others, [old.id().to_string()]);
        let mut new = start();
        let input = new.stdin.take();
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SOON);
                drop(input);
            });
            calm.wait(Duration::from_secs(60));
        });
        assert!(begun.elapsed() >= SOON);
        new.wait().unwrap();
        assert!(old.try_wait().unwrap().is_none());
        drop(old.stdin.take());
        old.wait().unwrap();
    }
}
