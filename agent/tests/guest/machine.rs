//! One microVM with the agent in it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use koya_proto::client::{AgentClient, connect};
use koya_proto::stream::{Token, open};
use koya_proto::{RPC_PORT, STREAM_PORT};
use serde_json::json;

/// An emulated processor boots in seconds, not in a minute.
const BOOT: Duration = Duration::from_secs(60);

pub struct Machine {
    vmm: Child,
    folder: PathBuf,
    pub agent: AgentClient,
}

impl Machine {
    pub fn boot() -> Self {
        Self::boot_with(256, &[])
    }

    /// With an amount of memory in MiB, and read-only disks by their serials.
    pub fn boot_with(memory: u32, disks: &[(&str, &Path)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("koya-agent-guest-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        fs::write(path("init.cpio"), initial_disk()).unwrap();
        make_layer(&folder);
        make_disk(&path("scratch"), None);
        let drive = |name: &str, file: &Path, read_only: bool| json!({ "drive_id": name, "path_on_host": file, "is_root_device": false, "is_read_only": read_only });
        let mut drives = vec![
            drive("scratch", &folder.join("scratch"), false),
            drive("layer", &folder.join("layer"), true),
        ];
        drives.extend(disks.iter().map(|(serial, file)| drive(serial, file, true)));
        let arguments = "console=ttyS0 reboot=k panic=-1 quiet koya.hostname=hut";
        let config = json!({
            "boot-source": {
                "kernel_image_path": variable("KOYA_KERNEL"), "initrd_path": path("init.cpio"), "boot_args": arguments,
            },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": memory },
            "drives": drives,
            "vsock": { "guest_cid": 3, "uds_path": path("vsock") },
        });
        fs::write(path("vm.json"), config.to_string()).unwrap();
        let mut vmm = Command::new(variable("KOYA_VMM"))
            .args(["--no-api", "--config-file", &path("vm.json")])
            .stdin(Stdio::null())
            .stdout(File::create(path("console")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + BOOT;
        while !fs::read_to_string(path("console"))
            .unwrap_or_default()
            .contains("koya-agent: ready")
        {
            let console = || fs::read_to_string(path("console")).unwrap_or_default();
            assert!(
                vmm.try_wait().unwrap().is_none() && Instant::now() < deadline,
                "not ready:\n{}",
                console()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let agent = connect(dial(&folder, RPC_PORT)).unwrap();
        Self { vmm, folder, agent }
    }

    pub fn stream(&self, token: Token) -> UnixStream {
        let stream = dial(&self.folder, STREAM_PORT);
        open(&stream, token).unwrap();
        stream
    }

    /// Waits for the VMM to end well; answers what the console said.
    pub fn await_end(&mut self) -> String {
        let deadline = Instant::now() + BOOT;
        loop {
            if let Some(status) = self.vmm.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return fs::read_to_string(self.folder.join("console")).unwrap();
            }
            assert!(Instant::now() < deadline, "the guest does not power off");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Was a disk's ext4 unmounted?
    pub fn is_clean(&self, disk: &str) -> bool {
        let shown = Command::new("/sbin/dumpe2fs")
            .arg("-h")
            .arg(self.folder.join(disk))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.contains("Filesystem state"), "{text}");
        !text.contains("needs_recovery")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; see the top of this test's main.rs"))
}

/// Firecracker's hybrid vsock: a unix socket that is told the port.
fn dial(folder: &Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(folder.join("vsock")).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut answer = String::new();
    // Unbuffered: what comes after the line is not this function's.
    BufReader::with_capacity(1, &stream)
        .read_line(&mut answer)
        .unwrap();
    assert!(answer.starts_with("OK "), "{answer:?}");
    stream
}

/// A cpio archive (newc) with the agent as /init, and nothing else.
fn initial_disk() -> Vec<u8> {
    let program = fs::read(env!("CARGO_BIN_EXE_koya-agent")).unwrap();
    let mut archive = Vec::new();
    for (name, mode, data) in [("init", 0o100_755, program.as_slice()), ("TRAILER!!!", 0, &[])] {
        let fields = [0, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        archive.extend(
            fields
                .iter()
                .flat_map(|field| format!("{field:08x}").into_bytes()),
        );
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// A read-only layer: busybox under two names.
fn make_layer(folder: &Path) {
    let tree = folder.join("tree");
    for name in ["bin", "proc"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    make_disk(folder.join("layer").to_str().unwrap(), Some(&tree));
}

fn make_disk(path: &str, tree: Option<&Path>) {
    let mut command = Command::new("/sbin/mke2fs");
    command.args(["-q", "-t", "ext4", "-F"]);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    assert!(command.args([path, "16M"]).status().unwrap().success());
    if tree.is_none() {
        // The folder of the scratch disk that a container uses.
        let made = Command::new("/sbin/debugfs")
            .args(["-w", "-R", "mkdir web", path])
            .output()
            .unwrap();
        assert!(made.status.success());
    }
}
