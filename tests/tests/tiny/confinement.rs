//! "Firecracker's flags and defaults": once the guest runs, every thread is behind a system call filter, unless
//! `--no-seccomp` says otherwise.

use std::fs;

use super::support::Monitor;

/// For each thread its mode of seccomp(2), and whether it may gain privileges.
fn modes(monitor: &Monitor) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{}/task", monitor.vm.pid())).unwrap();
    let modes = threads.map(|thread| {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        (value("Seccomp:"), value("NoNewPrivs:"))
    });
    modes.collect()
}

/// The event loop, the vCPU, and a helper of KVM's that some hosts count among a process's threads.
fn all_are(modes: &[(String, String)], seccomp: &str, no_new_privileges: &str) {
    assert!(modes.len() >= 2, "{modes:?}");
    for (mode, flag) in modes {
        assert_eq!((mode.as_str(), flag.as_str()), (seccomp, no_new_privileges));
    }
}

#[test]
fn every_thread_of_a_running_microvm_is_behind_a_filter() {
    let monitor = Monitor::running("spin", "");
    monitor.vm.expect("spinning");
    all_are(&modes(&monitor), "2", "1");
}

#[test]
fn no_seccomp_leaves_the_filters_out() {
    let monitor = Monitor::with(&["--no-seccomp"]);
    monitor.boot("spin", "");
    monitor.vm.expect("spinning");
    all_are(&modes(&monitor), "0", "0");
}
