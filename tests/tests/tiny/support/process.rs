//! What /proc tells of a running monitor.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Resident memory in KiB, without that of files such as the program itself; 0 once it has ended.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
}

/// The names of its threads; none once it has ended.
pub fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let names = tasks.into_iter().flatten();
    let names = names.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let mut names: Vec<_> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

/// What its descriptors are: paths, or the likes of `socket:[1234]`.
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
        .collect()
}

/// Processor time in clock ticks, of which there are 100 a second.
pub fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Sees to it that a process waits for something to do instead of asking for it again and again.
pub fn assert_idle(pid: u32) {
    let before = ticks(pid);
    thread::sleep(Duration::from_millis(500));
    let used = ticks(pid) - before;
    assert!(used <= 3, "{used} of 50 clock ticks");
}
