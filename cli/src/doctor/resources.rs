//! What every process shares: the kernel, memory, open files, cgroups.

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use super::host::Host;
use super::kernel::Kernel;
use crate::size;

/// The least memory with which a microVM boots, in bytes.
const LEAST: u64 = 64 << 20;
/// What one has unless somebody says otherwise, with what the host's processes take, in bytes.
const ENOUGH: u64 = 576 << 20;
/// Files that a microVM with some hundred processes in it has open.
const FILES: u64 = 4096;
/// The first kernel with mount_setattr(2), by which volumes become read-only.
const KERNEL: (u32, u32) = (5, 12);

/// All of them.
pub fn all(host: &Host, kernel: &Kernel) -> Vec<Finding> {
    vec![
        release(kernel),
        memory(host),
        files(getrlimit(Resource::Nofile).maximum),
        cgroup(host),
    ]
}

fn release(kernel: &Kernel) -> Finding {
    const CHECK: &str = "kernel";
    let (major, minor) = KERNEL;
    match kernel.version() {
        Some(version) if version >= KERNEL => Finding::ok(CHECK, format!("Linux {}", kernel.release)),
        Some(_) => Finding::warning(
            CHECK,
            format!("Linux {} is too old for volumes", kernel.release),
            format!("boot Linux {major}.{minor} or newer"),
        ),
        None => Finding::warning(
            CHECK,
            "unknown: kernel.osrelease cannot be read",
            format!("mount /proc; Linux {major}.{minor} or newer will do"),
        ),
    }
}

fn memory(host: &Host) -> Finding {
    const CHECK: &str = "memory";
    let text = host.read("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let words = line.strip_prefix("MemAvailable:")?;
        let kib: u64 = words.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    });
    let Some(bytes) = available else {
        return Finding::warning(CHECK, "unknown: /proc/meminfo does not tell", "mount /proc");
    };
    let free = format!("{} available", size::show(bytes));
    if bytes < LEAST {
        Finding::failed(CHECK, free, "end something, or add memory or swap")
    } else if bytes < ENOUGH {
        let fix = "give microVMs less (--vm-memory 128m), or end something";
        Finding::warning(CHECK, format!("{free}: less than a microVM may take"), fix)
    } else {
        Finding::ok(CHECK, free)
    }
}

/// The VMM raises its own limit as far as this.
fn files(hard: Option<u64>) -> Finding {
    const CHECK: &str = "open files";
    match hard {
        None => Finding::ok(CHECK, "no limit"),
        Some(limit) if limit >= FILES => Finding::ok(CHECK, format!("up to {limit} for a process")),
        Some(limit) => Finding::warning(
            CHECK,
            format!("a process may have only {limit}: a microVM with many processes and files needs more"),
            format!(
                "raise the hard limit to {FILES} or more: /etc/security/limits.conf, LimitNOFILE= of a service"
            ),
        ),
    }
}

/// A note: the limits of containers are set in their microVMs, by the kernel there.
fn cgroup(host: &Host) -> Finding {
    const CHECK: &str = "cgroup";
    let found = match host.word("/sys/fs/cgroup/cgroup.controllers") {
        Some(controllers) => format!("version 2, with {controllers}"),
        None => {
            "not version 2; containers do not need it, their limits are set inside their microVMs".to_owned()
        }
    };
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn memory_for_one_microvm() {
        for (kib, status) in [
            (8 << 20, Status::Ok),
            (300 << 10, Status::Warning),
            (20 << 10, Status::Failed),
        ] {
            let text = format!("MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable:   {kib} kB\n");
            let finding = memory(&Fake::new().with("/proc/meminfo", &text).host());
            assert_eq!(finding.status, status, "{finding:?}");
        }
        assert!(memory(&Fake::new().host()).found.starts_with("unknown"));
    }

    #[test]
    fn old_kernels_lack_what_volumes_need() {
        for (text, status) in [
            ("6.1.0-56-amd64\n", Status::Ok),
            ("5.12\n", Status::Ok),
            ("5.4.0-rc1\n", Status::Warning),
            ("new\n", Status::Warning),
        ] {
            let host = Fake::new().with("/proc/sys/kernel/osrelease", text);
            assert_eq!(release(&Kernel::of(&host.host())).status, status, "{text}");
        }
    }

    #[test]
    fn few_open_files_are_a_warning() {
        assert_eq!(files(Some(1024)).status, Status::Warning);
        assert_eq!(files(Some(1 << 20)).status, Status::Ok);
        assert_eq!(files(None).status, Status::Ok);
    }

    #[test]
    fn cgroups_are_noted() {
        let host = Fake::new().with("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
        assert_eq!(cgroup(&host.host()).found, "version 2, with cpu memory pids");
        assert!(cgroup(&Fake::new().host()).found.starts_with("not version 2"));
    }
}
