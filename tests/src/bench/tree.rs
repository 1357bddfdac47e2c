//! The files of the guests with containers: a small one with busybox for images and bundles, and one with the container runtimes
//! and this program.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BenchError;

/// What busybox is called in them.
const APPLETS: [&str; 14] = [
    "cat", "echo", "false", "head", "ip", "ls", "mkdir", "mount", "poweroff", "ps", "sh", "sleep", "sync",
    "true",
];

/// Debian's programs that make containers.
pub(super) const PROGRAMS: [&str; 2] = ["/usr/bin/crun", "/usr/bin/runc"];

/// Where the bundle's root file system is in the guest that has the runtimes.
pub(super) const BUNDLE_ROOT: &str = "/bundle/rootfs";
/// Where this program is in it, and the agent.
pub(super) const BENCH: &str = "/bin/koya-bench";
/// See [`BENCH`].
pub(super) const AGENT: &str = "/bin/koya-agent";
/// What its init says when the rest has said all.
pub(super) const DONE: &str = "koya-bench: done";

/// The init of the guest with the runtimes. `runs` comes from the kernel command line, whose unknown words the
/// kernel passes to init as variables.
const INIT: &str = "#!/bin/sh
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
/bin/koya-bench inside all \"$runs\"
echo \"koya-bench: done\"
poweroff -f
";

/// The init of the bare microVM.
const BARE_INIT: &str = "#!/bin/sh
echo 'koya-bench: init'
poweroff -f
";
/// What it says.
pub(super) const BARE_LINE: &str = "koya-bench: init";

/// busybox with its names.
pub(super) fn small(root: &Path) -> Result<(), BenchError> {
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        make_folder(&root.join(folder))?;
    }
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    for applet in APPLETS {
        let path = root.join("bin").join(applet);
        symlink("busybox", &path).map_err(BenchError::path("make", path))?;
    }
    write(&root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n", 0o644)
}

/// The small one with an init that says a line and powers off.
pub(super) fn bare(root: &Path) -> Result<(), BenchError> {
    small(root)?;
    write(&root.join("init"), BARE_INIT, 0o755)
}

/// The small one with crun, runc, the agent, this program, a bundle and an init.
pub(super) fn large(root: &Path, agent: &Path) -> Result<(), BenchError> {
    small(root)?;
    small(&root.join(BUNDLE_ROOT.trim_start_matches('/')))?;
    own(&root.join(BENCH.trim_start_matches('/')))?;
    place(root, AGENT, agent)?;
    for runtime in PROGRAMS {
        with_libraries(root, runtime)?;
    }
    write(&root.join("init"), INIT, 0o755)
}

/// This program at a path, without what debuggers want, which is most of it.
pub(super) fn own(to: &Path) -> Result<(), BenchError> {
    let own = std::env::current_exe().map_err(BenchError::host("find this program"))?;
    run(Command::new("strip").arg("-o").arg(to).arg(own)).map(drop)
}

/// A program of the host at its own path, with what it is linked with.
pub(super) fn with_libraries(root: &Path, program: &str) -> Result<(), BenchError> {
    place(root, program, Path::new(program))?;
    for library in libraries(Path::new(program))? {
        place(root, &library, Path::new(&library))?;
    }
    Ok(())
}

/// The shared libraries of a program, as its loader finds them here.
fn libraries(program: &Path) -> Result<Vec<String>, BenchError> {
    let listed = run(Command::new("ldd").arg(program))?;
    Ok(paths(&listed))
}

/// The paths that ldd prints: `name => /path (address)` and `/path (address)`.
fn paths(listed: &str) -> Vec<String> {
    let words = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(str::to_owned).collect()
}

/// Packs a folder as a tar file.
pub(super) fn tar(root: &Path, to: &Path) -> Result<PathBuf, BenchError> {
    run(Command::new("tar")
        .args(["--numeric-owner", "-C"])
        .arg(root)
        .arg("-cf")
        .arg(to)
        .arg("."))?;
    Ok(to.into())
}

/// Packs a folder as an initial RAM disk.
pub(super) fn initramfs(root: &Path, to: &Path) -> Result<PathBuf, BenchError> {
    let script = "cd \"$1\" && find . | cpio --quiet -o -H newc -R 0:0 > \"$2\"";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(root).arg(to))?;
    Ok(to.into())
}

/// Packs a folder as an ext4 disk.
pub(super) fn disk(root: &Path, to: &Path) -> Result<PathBuf, BenchError> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args([
        "-q",
        "-t",
        "ext4",
        "-F",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
        "-d",
    ]);
    run(mke2fs.arg(root).arg(to).arg("160M"))?;
    Ok(to.into())
}

/// Runs a program of the host to its good end; what it wrote.
pub(super) fn run(command: &mut Command) -> Result<String, BenchError> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(BenchError::path("run", &program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(BenchError::EarlyExit {
        awaited: format!("the end of {}", program.display()),
        code: output.status.code().unwrap_or(-1),
        last_words: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn place(root: &Path, at: &str, from: &Path) -> Result<(), BenchError> {
    let to = root.join(at.trim_start_matches('/'));
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    copy(from, &to)
}

pub(super) fn make_folder(path: &Path) -> Result<(), BenchError> {
    fs::create_dir_all(path).map_err(BenchError::path("make", path))
}

fn copy(from: &Path, to: &Path) -> Result<(), BenchError> {
    fs::copy(from, to)
        .map(drop)
        .map_err(BenchError::path("copy", from))
}

pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), BenchError> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(BenchError::path("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_every_library_are_found() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(paths(listed), ["/lib/libc.so.6", "/lib64/ld.so"]);
        assert!(paths("\tstatically linked\n").is_empty());
    }
}
