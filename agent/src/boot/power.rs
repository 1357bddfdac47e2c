//! How a guest goes down.

use std::time::Duration;

use koya_proto::v1::ShutdownKind;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::unistd::{Pid, sync};

use crate::error::StartError;

/// What is left of other processes gets this long to end when it is killed.
const KILLED: Duration = Duration::from_millis(20);

/// Has Ctrl-Alt-Del send SIGINT instead of resetting at once.
pub fn take_keys() -> Result<(), StartError> {
    set_cad_enabled(false).map_err(StartError::errno("take over Ctrl-Alt-Del"))
}

/// Ends everything, writes everything, and powers off or reboots.
pub fn go_down(kind: ShutdownKind) -> ! {
    let mode = match kind {
        ShutdownKind::SHUTDOWN_KIND_POWEROFF => RebootMode::RB_POWER_OFF,
        ShutdownKind::SHUTDOWN_KIND_REBOOT => RebootMode::RB_AUTOBOOT,
    };
    println!("koya-agent: going down ({kind:?})");
    // Everything but this process; the reaper takes what ends.
    let _ = nix::sys::signal::kill(Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
    std::thread::sleep(KILLED);
    sync();
    remount_read_only();
    let Err(errno) = reboot(mode);
    println!("koya-agent: cannot go down: {}", errno.desc());
    // The kernel stops when PID 1 ends, which is better than a guest that only
    // seems to run.
    std::process::exit(1)
}

/// Leaves disks clean that something still kept from being unmounted.
fn remount_read_only() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut words = line.split(' ');
        if let (Some(device), Some(at)) = (words.next(), words.next())
            && device.starts_with("/dev/")
        {
            let none: Option<&str> = None;
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let _ = mount(none, at, none, flags, none);
        }
    }
}
