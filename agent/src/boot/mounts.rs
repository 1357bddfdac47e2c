//! The file systems of a guest that has nothing but this program.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::error::StartError;

const SAFE: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
}

const fn entry(kind: &'static str, at: &'static str, flags: MsFlags, options: Option<&'static str>) -> Mount {
    Mount {
        kind,
        at,
        flags,
        options,
    }
}

/// In this order.
const MOUNTS: [Mount; 8] = [
    entry("proc", "/proc", SAFE, None),
    entry("sysfs", "/sys", SAFE, None),
    entry("devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755")),
    entry(
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        Some("mode=0620,ptmxmode=0666,gid=5"),
    ),
    entry(
        "tmpfs",
        "/dev/shm",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        Some("mode=1777"),
    ),
    entry(
        "tmpfs",
        "/run",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        Some("mode=0755"),
    ),
    entry(
        "tmpfs",
        "/tmp",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        Some("mode=1777"),
    ),
    entry("cgroup2", "/sys/fs/cgroup", SAFE, Some("nsdelegate")),
];

/// Where the root is mounted a second time; see [`settle_root`].
const NEW_ROOT: &str = "/run/root";
const CGROUP: &str = "/sys/fs/cgroup";

/// Mounts everything, and hands all cgroup controllers on to what is below.
pub fn mount_all() -> Result<(), StartError> {
    for Mount {
        kind,
        at,
        flags,
        options,
    } in &MOUNTS
    {
        let act = || format!("mount {kind} on {at}");
        fs::create_dir_all(at).map_err(StartError::io(act()))?;
        match mount(Some(*kind), *at, Some(*kind), *flags, *options) {
            // The kernel mounts devtmpfs itself when it is told to.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => return Err(StartError::errno(act())(errno)),
        }
    }
    let file = Path::new(CGROUP).join("cgroup.controllers");
    let controllers =
        fs::read_to_string(&file).map_err(StartError::io(format!("read {}", file.display())))?;
    for controller in controllers.split_whitespace() {
        // One that cannot be handed on is missed when a limit needs it.
        if let Err(error) = fs::write(
            Path::new(CGROUP).join("cgroup.subtree_control"),
            format!("+{controller}"),
        ) {
            println!("koya-agent: cgroup controller {controller} is not for containers: {error}");
        }
    }
    Ok(())
}

/// Makes the initial RAM disk a root as others are.
///
/// The kernel's first root has no parent, so that pivot_root(2), with which
/// containers get their own, refuses to move it. So the same files are mounted
/// once more and that mount takes the first one's place. And the files become
/// read-only: the program among them is run by every helper, inside containers'
/// namespaces, and nobody there may ever change it.
pub fn settle_root() -> Result<(), StartError> {
    let step = |act: &str| StartError::errno(format!("{act} the root file system"));
    fs::create_dir_all(NEW_ROOT).map_err(StartError::io("make a folder for the root file system"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(step("set apart"))?;
    mount(none, "/", none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).map_err(step("protect"))?;
    mount(
        Some("/"),
        NEW_ROOT,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .map_err(step("bind"))?;
    chdir(NEW_ROOT).map_err(step("enter"))?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(step("move"))?;
    chroot(".").map_err(step("change"))?;
    chdir("/").map_err(step("enter"))
}
