//! How an init is asked to stop.
//!
//! The host asks a system container with systemd's signal, as the container
//! interface of systemd has it for every container manager. Other inits know other
//! ones, and which init it is can only be seen here.

use std::fs;

/// SIGRTMIN+3: systemd halts (systemd(1), "Signals").
pub const SYSTEMD: u32 = 37;
/// runit shuts down (runit(8), "SIGNALS"; Debian's). sysvinit runs what inittab(5) has for a power failure, which
/// containers' distributions make a shutdown.
const SIGPWR: u32 = 30;
/// openrc-init shuts down.
const SIGTERM: u32 = 15;
/// busybox's init powers off.
const SIGUSR2: u32 = 12;

/// The signal for the init with a pid; systemd's for one that is not known.
pub fn signal_for(pid: u32) -> u32 {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    signal_of(name.as_deref().unwrap_or_default())
}

fn signal_of(program: &str) -> u32 {
    // What the kernel says of one whose file was replaced.
    match program.trim_end_matches(" (deleted)") {
        "runit" | "init" => SIGPWR,
        "openrc-init" => SIGTERM,
        "busybox" => SIGUSR2,
        _ => SYSTEMD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_init_is_asked_in_its_own_words() {
        assert_eq!(signal_of("systemd"), SYSTEMD);
        assert_eq!(signal_of("runit"), SIGPWR);
        assert_eq!(signal_of("openrc-init (deleted)"), SIGTERM);
        assert_eq!(signal_of("busybox"), SIGUSR2);
        assert_eq!(signal_of("an-init-of-somebodys"), SYSTEMD);
        // Not one at all, nor there.
        assert_eq!(signal_for(u32::MAX), SYSTEMD);
    }
}
