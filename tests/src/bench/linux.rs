//! The Linux guest of the boot, disk and network figures, and what it needs on the host.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BenchError;
use super::options::Options;
use super::vmm::Machine;

/// What the root disks' init says first.
pub const INIT_LINE: &str = "koya-guest: init reached after ";
/// What it says after a script, before its exit code.
pub const SCRIPT_END: &str = "koya-guest: exit ";
/// The host's end of the tap.
pub const HOST_ADDRESS: &str = "172.31.254.1";
const GUEST_ADDRESS: &str = "172.31.254.2";

/// Size of the disk that is read from. It fits the host's page cache: what is measured is the path
/// through the VMM.
const DATA_MIB: usize = 256;

/// The same kernel, disks, memory and network card for every VMM.
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: PathBuf,
    root: PathBuf,
    data: PathBuf,
    tap: String,
    vcpus: u32,
    memory_mib: u32,
    /// Length of each fio and iperf3 run, in seconds.
    pub seconds: u32,
}

impl Linux {
    /// Copies kernel and disk to `scratch` and fills a disk to read from.
    ///
    /// # Errors
    /// When kernel or disk is not given or cannot be copied.
    pub fn prepare(options: &Options, tap: &Tap, scratch: &Path) -> Result<Self, BenchError> {
        let kernel = given(&options.kernel, "--kernel", "see resources/kernel/build")?;
        let disk = given(&options.disk, "--disk", "see resources/rootfs/build debian")?;
        let data = scratch.join("data.img");
        fill(&data, DATA_MIB).map_err(BenchError::path("write", &data))?;
        Ok(Self {
            kernel: copy(&kernel, &scratch.join("vmlinux"))?,
            root: copy(&disk, &scratch.join("root.img"))?,
            data,
            tap: tap.0.clone(),
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
            seconds: options.seconds,
        })
    }

    /// A machine with the root disk and a network card. With a script, its init runs that instead of a
    /// shell, and there are the disk to read from (`/dev/vdb`) and an address for the card.
    #[must_use]
    pub fn machine(&self, script: Option<&str>) -> Machine {
        let mut cmdline = "console=ttyS0 quiet reboot=k panic=-1 root=/dev/vda ro".to_owned();
        let mut disks = vec![self.root.clone()];
        if let Some(script) = script {
            cmdline.push_str(&format!(
                " ip={GUEST_ADDRESS}::{HOST_ADDRESS}:255.255.255.252::eth0:off koya.run={}",
                base64(script.as_bytes())
            ));
            disks.push(self.data.clone());
        }
        Machine {
            kernel: self.kernel.clone(),
            initrd: None,
            cmdline,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disks,
            tap: Some(self.tap.clone()),
            entropy: false,
            acpi: true,
        }
    }
}

/// A path that the user has to name.
pub(super) fn given(path: &Option<PathBuf>, name: &str, remedy: &'static str) -> Result<PathBuf, BenchError> {
    path.clone().ok_or_else(|| BenchError::Missing {
        what: name.into(),
        remedy,
    })
}

/// A tap device with the host's address, removed when dropped.
#[derive(Debug)]
pub struct Tap(String);

impl Tap {
    /// Makes one.
    ///
    /// # Errors
    /// When `ip` is missing, or this is not root.
    pub fn new() -> Result<Self, BenchError> {
        let tap = Self(format!("kb{}", std::process::id()));
        ip(&["tuntap", "add", "dev", &tap.0, "mode", "tap"])?;
        ip(&["address", "add", &format!("{HOST_ADDRESS}/30"), "dev", &tap.0])?;
        ip(&["link", "set", &tap.0, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // There is nobody to tell when it fails.
        let _ = ip(&["link", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), BenchError> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(BenchError::path("run", "ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let last_words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let code = output.status.code().unwrap_or(-1);
    Err(BenchError::EarlyExit {
        awaited: format!("ip {}", arguments.join(" ")),
        code,
        last_words,
    })
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<PathBuf, BenchError> {
    // The system's `cp` keeps holes, which matter on a tmpfs.
    let status = Command::new("cp")
        .arg("--sparse=always")
        .arg(from)
        .arg(to)
        .status();
    match status.map_err(BenchError::path("run", "cp"))?.success() {
        true => Ok(to.into()),
        false => Err(BenchError::Missing {
            what: from.display().to_string(),
            remedy: "it must be readable, and fit the scratch folder",
        }),
    }
}

/// Fills a file with numbers that repeat nowhere, so that nothing shares or skips its pages.
pub(super) fn fill(path: &Path, mib: usize) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mib << 17 {
        // 2^17 numbers of eight bytes are a MiB.
        // Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}

/// Base64 with padding (RFC 4648 §4): a script in that form survives the kernel command line.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let symbol = ALPHABET
                .get((bits >> shift & 63) as usize)
                .copied()
                .unwrap_or(b'=');
            text.push(if index <= chunk.len() { symbol.into() } else { '=' });
        }
    }
    text
}

/// Name of a scratch folder, before the process id.
const SCRATCH: &str = "koya-bench-";

/// Removes the folders of runs that were killed: they are large, and in memory.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(SCRATCH));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Somebody else's is not ours to remove.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A folder in memory that is removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one, in `/dev/shm` where there is one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self, BenchError> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        remove_leftovers(&parent);
        let folder = parent.join(format!("{SCRATCH}{}", std::process::id()));
        fs::create_dir(&folder).map_err(BenchError::path("make", &folder))?;
        Ok(Self(folder))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // There is nobody to tell when it fails.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_behind_is_removed() {
        let parent = std::env::temp_dir().join(format!("koya-leftovers-{}", std::process::id()));
        // Process ids end far below this one.
        let (dead, living, other) = ("koya-bench-999999999", format!("{SCRATCH}1"), "else");
        for name in [dead, &living, other] {
            fs::create_dir_all(parent.join(name)).unwrap();
        }
        remove_leftovers(&parent);
        let left = |name: &str| parent.join(name).exists();
        assert_eq!((left(dead), left(&living), left(other)), (false, true, true));
        fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn encodes_as_rfc_4648_section_10() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
