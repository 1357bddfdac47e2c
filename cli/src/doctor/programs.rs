//! The programs that containers need.

use std::env;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_sandbox::parts::{Parts, PartsError};
use rustix::fs::{Access, MemfdFlags, access, memfd_create};

use super::finding::Finding;
use super::host::{self, Host};

/// Where mkfs.ext4 is looked for when a disk is made.
const SYSTEM: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);
/// The first virtiofsd that translates owners as volumes need it.
const VIRTIOFSD: (u32, u32) = (1, 13);

/// Those that every container needs.
pub fn all(host: &Host) -> Vec<Finding> {
    vec![parts(Parts::find()), mkfs(host)]
}

/// The parts of this installation.
fn parts(found: Result<Parts, PartsError>) -> Finding {
    const CHECK: &str = "parts of koya";
    let fix =
        "install koya whole: koya-vmm, koya-agent and vmlinux go beside koya, or to /usr/local/lib/koya";
    let parts = match found {
        Ok(parts) => parts,
        Err(error) => return Finding::failed(CHECK, error.to_string(), fix),
    };
    let Parts { vmm, kernel, agent } = parts;
    if access(&vmm, Access::EXEC_OK).is_err() {
        return Finding::failed(CHECK, format!("{vmm:?} cannot be executed"), fix);
    }
    for (path, what) in [(&agent, "program"), (&kernel, "kernel")] {
        let is_whole = match what {
            "program" => starts_with(path, 0, b"\x7fELF"),
            // An ELF image, or a bzImage (the kernel's Documentation/arch/x86/boot.rst).
            _ => starts_with(path, 0, b"\x7fELF") || starts_with(path, 0x202, b"HdrS"),
        };
        if !is_whole {
            return Finding::failed(CHECK, format!("{path:?} cannot be read, or is no {what}"), fix);
        }
    }
    let paths = [vmm, agent, kernel].map(|path| path.display().to_string());
    Finding::ok(CHECK, paths.join(", "))
}

fn starts_with<const LENGTH: usize>(path: &Path, offset: u64, magic: &[u8; LENGTH]) -> bool {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; LENGTH];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset));
    read.is_ok() && bytes == *magic
}

/// What makes the disk for a container's changes.
fn mkfs(host: &Host) -> Finding {
    const CHECK: &str = "mkfs.ext4";
    match host.program(&SYSTEM, CHECK) {
        Some(path) => Finding::ok(CHECK, path.display().to_string()),
        None => {
            let found = "is not there: the disk for a container's changes cannot be made";
            Finding::failed(CHECK, found, "apt-get install e2fsprogs")
        }
    }
}

/// What serves volumes.
pub fn virtiofsd() -> Finding {
    match Parts::find_virtiofsd() {
        Ok(path) => version_of_virtiofsd(&path, ask(&path, "--version").as_deref()),
        Err(error) => Finding::warning("virtiofsd", error.to_string(), get_virtiofsd()),
    }
}

fn get_virtiofsd() -> String {
    let (major, minor) = VIRTIOFSD;
    format!(
        "apt-get install virtiofsd if that is {major}.{minor} or newer (Debian 13); otherwise cargo install virtiofsd, and \
         set KOYA_VIRTIOFSD to it"
    )
}

fn version_of_virtiofsd(path: &Path, said: Option<&str>) -> Finding {
    const CHECK: &str = "virtiofsd";
    let line = said.and_then(|said| said.lines().next()).unwrap_or_default();
    let found = match line.strip_prefix("virtiofsd ") {
        // QEMU's program of old has the same name and other options.
        Some(version) if version.starts_with("version ") => {
            format!("{path:?} is QEMU's, which volumes cannot use")
        }
        Some(version) if numbers(version).is_some_and(|numbers| numbers >= VIRTIOFSD) => {
            return Finding::ok(CHECK, format!("{version}, {}", path.display()));
        }
        Some(version) => format!("{path:?} is {version}, which is too old for volumes"),
        None => format!("{path:?} does not tell its version; volumes need it"),
    };
    Finding::warning(CHECK, found, get_virtiofsd())
}

/// Major and minor number.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// What a program says to one argument; `None` if it fails, or is not done in time.
pub fn ask(program: &Path, argument: &str) -> Option<String> {
    // A pipe could fill up while nobody reads.
    let mut output = File::from(memfd_create("answer", MemfdFlags::CLOEXEC).ok()?);
    let mut child = Command::new(program)
        .arg(argument)
        .current_dir(env::temp_dir())
        .stdin(Stdio::null())
        .stdout(output.try_clone().ok()?)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    output.rewind().ok()?;
    let said = host::read(output.by_ref())?;
    status.success().then(|| said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    fn installation(kernel: &str) -> (Fake, Parts) {
        let fake = Fake::new()
            .with_program("/lib/koya-vmm", "")
            .with("/lib/koya-agent", "\x7fELF and more")
            .with("/lib/vmlinux", kernel);
        let path = |name| fake.host().path(name);
        let parts = Parts {
            vmm: path("/lib/koya-vmm"),
            agent: path("/lib/koya-agent"),
            kernel: path("/lib/vmlinux"),
        };
        (fake, parts)
    }

    #[test]
    fn parts_are_looked_into() {
        let bzimage = format!("{}HdrS", " ".repeat(0x202));
        for kernel in ["\x7fELF…", &bzimage] {
            let (_fake, found) = installation(kernel);
            assert_eq!(parts(Ok(found)).status, Status::Ok);
        }
        let (_fake, found) = installation("version https://git-lfs.github.com/spec/v1");
        let finding = parts(Ok(found));
        assert_eq!(finding.status, Status::Failed);
        assert!(
            finding
                .found
                .contains("vmlinux\" cannot be read, or is no kernel"),
            "{finding:?}"
        );

        let (_fake, mut found) = installation("\x7fELF");
        found.vmm = found.agent.clone();
        assert!(parts(Ok(found)).found.ends_with("cannot be executed"));
    }

    #[test]
    fn a_missing_part_is_named() {
        let error = PartsError::Missing {
            name: "koya-vmm",
            variable: "KOYA_VMM",
        };
        let finding = parts(Err(error));
        assert_eq!(finding.status, Status::Failed);
        assert!(finding.found.contains("KOYA_VMM"), "{finding:?}");
    }

    #[test]
    fn no_disk_without_mkfs() {
        let fake = Fake::new().with("/sbin/mkfs.ext4", "not executable");
        assert_eq!(mkfs(&fake.host()).status, Status::Failed);
        let fake = fake.with_program("/usr/sbin/mkfs.ext4", "");
        assert_eq!(mkfs(&fake.host()).status, Status::Ok);
    }

    #[test]
    fn virtiofsd_is_told_by_its_version() {
        let path = PathBuf::from("/usr/libexec/virtiofsd");
        for (said, status) in [
            (Some("virtiofsd 1.14.0"), Status::Ok),
            (Some("virtiofsd 1.13.0"), Status::Ok),
            (Some("virtiofsd 1.9.1"), Status::Warning),
            (
                Some("virtiofsd version 7.2.22 (Debian 1:7.2)\nCopyright"),
                Status::Warning,
            ),
            (Some("virtiofsd new"), Status::Warning),
            (None, Status::Warning),
        ] {
            let finding = version_of_virtiofsd(&path, said);
            assert_eq!(finding.status, status, "{finding:?}");
        }
    }

    #[test]
    fn programs_that_fail_say_nothing() {
        let fake = Fake::new().with_program("/bin/talks", "1.2.3");
        assert_eq!(
            ask(&fake.host().path("/bin/talks"), "version").as_deref(),
            Some("1.2.3")
        );
        assert_eq!(ask(Path::new("/bin/false"), "version"), None);
        assert_eq!(ask(Path::new("/no/such/program"), "version"), None);
    }
}
