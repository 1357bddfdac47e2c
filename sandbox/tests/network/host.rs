//! A host of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use koya_sandbox::network::Networks;

/// Long for anything here, even on an emulated processor.
pub const LONG: Duration = Duration::from_secs(30);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The thread that makes it is on a host without any network.
pub struct Host {
    folder: PathBuf,
    pub networks: Networks,
}

impl Host {
    pub fn new() -> Self {
        // SAFETY: the call takes flags only, and changes what this thread sees of the system, no memory.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
        assert_eq!(
            result,
            0,
            "networks take root: {}",
            std::io::Error::last_os_error()
        );
        run("mount --make-rprivate /");
        run("ip link set lo up");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("koya-network-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        run(&format!("mount -t tmpfs test {}", folder.display()));
        let networks = Networks::with_run(&folder, &folder.join("run")).unwrap();
        Self { folder, networks }
    }

    /// As the next process sees them.
    pub fn again(&self) -> Networks {
        Networks::with_run(&self.folder, &self.run_folder()).unwrap()
    }

    pub fn run_folder(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Where it is noted what containers have.
    pub fn attached_folder(&self) -> PathBuf {
        let networks = self.folder.join("networks");
        let boot = files(&networks)
            .into_iter()
            .find(|name| name.starts_with("boot-"));
        networks.join(boot.unwrap()).join("attached")
    }

    /// Nothing of any container or microVM is left: interfaces, rules, namespaces, names, files.
    pub fn assert_clean(&self) {
        assert_eq!(links(), ["lo"]);
        let rules = run("iptables-save");
        for trace in ["dport", "10.9", "fd00:", "NETAVARK-DN-", "KOYA-"] {
            assert!(!rules.contains(trace), "{trace}: {rules}");
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains("nsfs"), "{mounts}");
        assert_eq!(files(&self.run_folder().join("netns")), [""; 0]);
        assert!(self.networks.all_attached().unwrap().is_empty());
        assert!(self.networks.all_vms().unwrap().is_empty());
        assert_eq!(files(&self.attached_folder()), [""; 0], "notes of containers");
        let names = self.run_folder().join("aardvark-dns");
        let names: Vec<_> = files(&names)
            .into_iter()
            .filter(|file| file != "aardvark.pid")
            .collect();
        assert_eq!(names, [""; 0], "names of containers");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.run_folder().join("aardvark-dns/aardvark.pid"));
        if let Ok(pid) = pid {
            let _ = Command::new("kill")
                .arg(pid.trim())
                .stderr(Stdio::null())
                .status();
        }
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        let _ = fs::remove_dir(&self.folder);
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Names of the interfaces that this thread sees.
pub fn links() -> Vec<String> {
    let links: serde_json::Value = serde_json::from_str(&run("ip -j link")).unwrap();
    let names = links.as_array().unwrap().iter();
    names
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .collect()
}

/// Runs `line`, words without quotes, which must succeed; its output.
pub fn run(line: &str) -> String {
    let output = attempt(line);
    output.unwrap_or_else(|words| panic!("{line}: {words}"))
}

/// Runs `line`; its output, or what it complains of.
pub fn attempt(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text + &String::from_utf8_lossy(&output.stderr))
    }
}
