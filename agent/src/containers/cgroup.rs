//! A container's cgroup (v2): freezing, killing, counting, removing. Limits are
//! set by the container runtime.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_proto::v1::StatsResponse;
use nix::sys::stat::stat;

use crate::children::signal_stranger;
use crate::error::{Result, deadline as passed, runtime};
use crate::sys::Deadline;

/// Where the tree of cgroups is.
pub const MOUNT: &str = "/sys/fs/cgroup";
/// Files of a cgroup that its owner may write (cgroups(7)).
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
/// How often something that the kernel does in its own time is looked at.
const STEP: Duration = Duration::from_millis(5);

/// A cgroup, by its path.
pub struct Cgroup {
    name: String,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup of a container, below one of the agent's own. Checked ids
    /// have no `/`.
    pub fn of(parent: &str, id: &str) -> Self {
        let name = format!("/{parent}/{id}");
        let path = PathBuf::from(format!("{MOUNT}{name}"));
        Self { name, path }
    }

    /// Its name in the tree, for config.json.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands it to the root of a container, which may then arrange its processes
    /// in cgroups of its own below it. Limits of this one stay out of its reach.
    pub fn delegate(&self, (user, group): (u32, u32)) -> Result<()> {
        let failed = || runtime("hand the container's cgroup to its root");
        chown(&self.path, Some(user), Some(group)).map_err(failed())?;
        // The kernel's own list of the files that go with it.
        let files = fs::read_to_string("/sys/kernel/cgroup/delegate");
        let files = files.unwrap_or_else(|_| DELEGATED.join("\n"));
        for file in files.lines() {
            match chown(self.path.join(file), Some(user), Some(group)) {
                // Of a controller that is missing.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => other.map_err(failed())?,
            }
        }
        Ok(())
    }

    /// Freezes or thaws all processes, and waits for it to have happened.
    pub fn freeze(&self, frozen: bool, deadline: Deadline) -> Result<()> {
        let act = if frozen {
            "freeze the container"
        } else {
            "thaw the container"
        };
        fs::write(self.path.join("cgroup.freeze"), if frozen { "1" } else { "0" }).map_err(runtime(act))?;
        while self.number("cgroup.events", "frozen") != u64::from(frozen) {
            if deadline.passed() {
                return Err(passed(format!("the deadline passed before the kernel did {act}")));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Sends a signal to every process in it.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.kill().map_err(runtime("kill the container's processes"));
        }
        for folder in self.folders().map_err(runtime("list the container's cgroups"))? {
            let pids = fs::read_to_string(folder.join("cgroup.procs"))
                .map_err(runtime("list the container's processes"))?;
            for pid in pids
                .lines()
                .filter_map(|line| line.parse().ok())
                .filter(|&pid| pid > 0)
            {
                // Gone in the meantime: what was wanted, or nearly.
                match signal_stranger(pid, signal) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        return Err(runtime(format!("send signal {signal} to process {pid}"))(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Kills what is in it and removes it with all below.
    pub fn remove(&self, deadline: Deadline) -> Result<()> {
        let failed = || runtime("remove the container's cgroup");
        self.kill().map_err(failed())?;
        loop {
            let folders = match self.folders() {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                folders => folders.map_err(failed())?,
            };
            let mut outcome = Ok(());
            for folder in folders.iter().rev() {
                match fs::remove_dir(folder) {
                    Err(error) if error.kind() != ErrorKind::NotFound => outcome = Err(error),
                    _ => {}
                }
            }
            match outcome {
                Ok(()) => return Ok(()),
                // Processes that are on their way out.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && !deadline.passed() => {
                    std::thread::sleep(STEP)
                }
                Err(error) => return Err(failed()(error)),
            }
        }
    }

    /// Itself and all below, parents first.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = vec![self.path.clone()];
        let mut next = 0;
        while let Some(folder) = folders.get(next).cloned() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
            next = next.saturating_add(1);
        }
        Ok(folders)
    }

    /// Processes that the kernel killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.number("memory.events", "oom_kill")
    }

    /// All counters; 0 where a controller is missing.
    pub fn stats(&self) -> StatsResponse {
        let cpu = self.read("cpu.stat");
        let [read_bytes, write_bytes, reads, writes] = io_totals(&self.read("io.stat"));
        StatsResponse {
            cpu_usage_us: field(&cpu, "usage_usec"),
            cpu_user_us: field(&cpu, "user_usec"),
            cpu_system_us: field(&cpu, "system_usec"),
            cpu_throttled_us: field(&cpu, "throttled_usec"),
            memory_current_bytes: self.value("memory.current"),
            memory_peak_bytes: self.value("memory.peak"),
            memory_limit_bytes: self.value("memory.max"),
            memory_inactive_file_bytes: self.number("memory.stat", "inactive_file"),
            swap_current_bytes: self.value("memory.swap.current"),
            oom_kills: self.oom_kills(),
            pids_current: self.value("pids.current"),
            pids_limit: self.value("pids.max"),
            io_read_bytes: read_bytes,
            io_write_bytes: write_bytes,
            io_read_operations: reads,
            io_write_operations: writes,
            ..Default::default()
        }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// A file that is one number; "max" is 0.
    fn value(&self, file: &str) -> u64 {
        self.read(file).trim().parse().unwrap_or(0)
    }

    /// A number in a file of lines "key value".
    fn number(&self, file: &str, key: &str) -> u64 {
        field(&self.read(file), key)
    }
}

fn field(text: &str, key: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Sums io.stat's lines "MAJOR:MINOR rbytes=… wbytes=… rios=… wios=…".
fn io_totals(text: &str) -> [u64; 4] {
    ["rbytes=", "wbytes=", "rios=", "wios="].map(|key| {
        let values = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        values.fold(0, u64::saturating_add)
    })
}

/// Removes the agent's own cgroup, when the last container has gone.
pub fn remove_parent(parent: &str) {
    // Not there if there never was a container.
    let _ = fs::remove_dir(Path::new(MOUNT).join(parent));
}

/// Is this a cgroup v2 mount, where containers can be?
pub fn is_unified() -> bool {
    stat(Path::new(MOUNT).join("cgroup.controllers").as_path()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "usage_usec 12\nuser_usec 7\nuser_usec_total 9\n";
        assert_eq!(field(text, "user_usec"), 7);
        assert_eq!(field(text, "system_usec"), 0);
    }

    #[test]
    fn disks_are_added_up() {
        let text = "254:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n254:16 rbytes=1 wbytes=1 rios=1 wios=1\n";
        assert_eq!(io_totals(text), [4097, 2, 3, 4]);
        assert_eq!(io_totals(""), [0; 4]);
    }

    #[test]
    fn a_cgroup_is_below_ours() {
        let cgroup = Cgroup::of("koya", "web");
        assert_eq!(cgroup.name(), "/koya/web");
        assert_eq!(cgroup.path(), Path::new("/sys/fs/cgroup/koya/web"));
    }
}
