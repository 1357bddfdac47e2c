//! Files, commands and namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{Scratch, from_env};

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
/// Patience where KVM is emulated.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A copy of `path` without a name in the folder for temporary files: a shared folder is slow to boot from, and
/// nothing is left behind however the tests end.
pub fn held(path: &Path) -> PathBuf {
    static HELD: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let file = held.entry(path.to_owned()).or_insert_with(|| {
        let scratch = Scratch::new();
        let name = scratch.path("held");
        copy(path, &name);
        File::open(name).unwrap()
    });
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Copies a file, with its holes.
pub fn copy(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("--sparse=always").arg(from).arg(to));
}

/// A file as a block device of the host, until this is dropped.
pub struct LoopDevice(String);

impl LoopDevice {
    /// Needs the module `loop`.
    pub fn of(file: &Path) -> Self {
        let device = succeed(Command::new("losetup").args(["--find", "--show"]).arg(file));
        Self(device.trim().to_owned())
    }

    /// Its node.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Runs a command that must succeed; its output.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

/// Runs `line`, words without quotes, which must succeed; its output.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    succeed(Command::new(words.next().unwrap()).args(words))
}

/// Runs a command to its end, with `typed` as all of its input.
pub fn fed(command: &mut Command, typed: &[u8]) -> Said {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(typed).unwrap());
        Said::of(&child.wait_with_output().unwrap())
    })
}

/// The first one to connect, who may neither stay away nor fall silent for ever.
pub fn visitor(listener: &TcpListener) -> TcpStream {
    let start = Instant::now();
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("nobody connects: {error}"),
        }
    }
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// SHA-256 of a file.
pub fn sha256_of(path: &Path) -> String {
    sha256(&fs::read(path).unwrap())
}

/// Bytes that the file occupies.
pub fn occupied(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes that repeat nowhere.
pub fn noise(length: u64) -> Vec<u8> {
    // Marsaglia, "Xorshift RNGs", 2003.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ length;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap());
    for _ in 0..length / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

/// Gives this thread, and whatever it starts, a network and a mount table of its own. They go with the last of them.
pub fn isolate() {
    // SAFETY: the call takes flags only, and changes what this thread sees of the system, no memory.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(
        result,
        0,
        "namespaces take root: {}",
        std::io::Error::last_os_error()
    );
    run("mount --make-rprivate /");
    run("ip link set lo up");
}

/// What a command said, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub errors: String,
    /// None after a signal.
    pub code: Option<i32>,
}

impl Said {
    /// Of a command that has ended.
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            out: text(&output.stdout),
            errors: text(&output.stderr),
            code: output.status.code(),
        }
    }
}

/// Puts `koya-runtime` and its parts into a folder; where it is then. It looks for them beside itself: engines hand on no
/// environment.
pub fn install_runtime(folder: &Path) -> PathBuf {
    let runtime = folder.join("koya-runtime");
    fs::copy(from_env("KOYA_RUNTIME"), &runtime).unwrap();
    for (name, variable) in [
        ("koya-vmm", "KOYA_VMM"),
        ("koya-agent", "KOYA_AGENT"),
        ("vmlinux", "KOYA_KERNEL"),
        ("virtiofsd", "KOYA_VIRTIOFSD"),
    ] {
        symlink(from_env(variable), folder.join(name)).unwrap();
    }
    runtime
}

/// Copies a program that `variable` names, and the parts of a microVM beside it, to where ordinary users may run them.
pub fn install_for_users(folder: &Path, (variable, name): (&str, &str)) {
    fs::create_dir(folder).unwrap();
    for (variable, name) in [
        (variable, name),
        ("KOYA_VMM", "koya-vmm"),
        ("KOYA_AGENT", "koya-agent"),
        ("KOYA_KERNEL", "vmlinux"),
        ("KOYA_VIRTIOFSD", "virtiofsd"),
    ] {
        fs::copy(from_env(variable), folder.join(name)).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The pids of processes whose program has this name.
pub fn pids_of(name: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
        .collect()
}

/// Sends a signal to a process.
pub fn kill(pid: u32, number: i32) {
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe { libc::kill(pid.cast_signed(), number) };
}

/// Takes `/dev/kvm` away from this thread, and from whatever it starts, that has been isolated before.
pub fn hide_kvm() {
    const SCRIPT: &str = "set -e; all=$(mktemp --directory); mount --rbind /dev $all; mount -t tmpfs none /dev; cd $all; \
                          for name in *; do \
                          if [ $name = kvm ]; then continue; \
                          elif [ -d $name ] && [ ! -L $name ]; then mkdir /dev/$name; mount --rbind $name /dev/$name; \
                          elif [ ! -S $name ]; then cp --archive $name /dev; fi; done; \
                          cd /; umount --lazy --recursive $all; rmdir $all; ! [ -e /dev/kvm ]";
    succeed(Command::new("sh").args(["-c", SCRIPT]));
}
