//! "What bad input gets": one line that names the file, field, path or id and what would be right; a non-zero exit within
//! a second; nothing left behind; never a panic, a backtrace or a hang. Over the API the same mistake gets status 400,
//! and the monitor still starts a good guest afterwards.

mod drives;
mod http;
mod ids;
mod json;
mod kernel;
mod kvm;
mod machine;
mod network;
mod socket;
mod stdin;

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use koya_api::http::Method;
use koya_tests::vm::{self, Scratch, Vm};
use serde_json::{Value, json};

use super::support::Monitor;

/// How soon a mistake ends the process.
const SOON: Duration = Duration::from_secs(1);
/// A busy machine may take longer once; a monitor that is slow is so every time.
const TRIES: usize = 3;
/// Longest line a person reads.
const READABLE: usize = 600;

/// Both doors refuse a configuration with these sections, in words that contain each of `names`.
fn refused(sections: &Value, names: &[&str]) {
    refused_in_file(sections.to_string(), names);
    refused_over_api(&Monitor::start(), sections, names);
}

/// A config file with this text is refused.
fn refused_in_file(text: impl AsRef<[u8]>, names: &[&str]) {
    let scratch = Scratch::new();
    let file = scratch.file("vm.json", text);
    let socket = scratch.path("api.sock");
    let line = refusal(|| {
        let mut command = Command::new(vm::vmm_binary());
        command.args([OsStr::new("--api-sock"), socket.as_os_str()]);
        command.args([OsStr::new("--config-file"), file.as_os_str()]);
        command
    });
    assert_names(&line, names);
    assert!(!socket.exists(), "the socket is still there");
}

/// A command line is refused.
fn refused_arguments(arguments: &[&str], names: &[&str]) {
    let line = refusal(|| {
        let mut command = Command::new(vm::vmm_binary());
        command.args(arguments);
        command
    });
    assert_names(&line, names);
}

/// The one line with which the monitor that `command` runs ends, soon and with an exit code other than 0.
fn refusal(command: impl Fn() -> Command) -> String {
    let mut took = Duration::ZERO;
    for _ in 0..TRIES {
        let mut vm = Vm::spawn(command());
        let start = begin(&vm);
        let status = vm.wait();
        took = start.elapsed();
        let text = vm.log.text();
        assert!(status.code().is_some_and(|code| code != 0), "{status}: {text}");
        assert_eq!(vm.console.text(), "", "a guest ran: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("koya-vmm: "), "{text}");
        assert_readable(&text);
        if took <= SOON {
            return text;
        }
    }
    panic!("the end took {took:?}");
}

/// When the process became the monitor: what runs before it, such as `unshare`, is not its business.
fn begin(vm: &Vm) -> Instant {
    let program = fs::canonicalize(vm::vmm_binary()).unwrap();
    let mut last = Instant::now();
    // The link cannot be read once the process has ended.
    while let Ok(running) = fs::read_link(format!("/proc/{}/exe", vm.pid())) {
        if running == program {
            break;
        }
        last = Instant::now();
    }
    last
}

fn assert_readable(text: &str) {
    for unwanted in ["panicked", "RUST_BACKTRACE", "unwrap", "backtrace"] {
        assert!(!text.contains(unwanted), "{text}");
    }
    assert!(text.len() <= READABLE, "{} bytes: {text}", text.len());
}

fn assert_names(text: &str, names: &[&str]) {
    for name in names {
        assert!(text.contains(name), "no {name:?} in: {text}");
    }
}

/// The API refuses these sections, at once or when the microVM is started, and goes on to start a good one.
fn refused_over_api(monitor: &Monitor, sections: &Value, names: &[&str]) {
    let start = json!({ "action_type": "InstanceStart" });
    let mut requests = requests(sections);
    requests.push(("/actions".into(), start.to_string()));
    let refusal = requests
        .iter()
        .map(|(path, body)| monitor.request(Method::Put, path, Some(body)))
        .find(|response| !response.is_success())
        .unwrap_or_else(|| panic!("not refused: {sections}"));
    assert_eq!(refusal.status, 400, "{refusal:?}");
    let message = refusal.fault_message().unwrap();
    assert_names(&message, names);
    assert_readable(&message);
    assert_healthy(monitor);
}

/// The monitor waits for a microVM, and runs it.
fn assert_healthy(monitor: &Monitor) {
    assert_eq!(monitor.state(), "Not started");
    assert_eq!(
        monitor
            .vm
            .log
            .text()
            .lines()
            .filter(|line| line.contains("panicked"))
            .count(),
        0
    );
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128 });
    monitor.done(Method::Put, "/machine-config", &machine);
    monitor.boot("hello", "");
    monitor.vm.expect("hello from a tiny guest");
}

/// The requests that say what the sections of a config file say.
fn requests(sections: &Value) -> Vec<(String, String)> {
    let mut requests = Vec::new();
    for (key, section) in sections.as_object().unwrap() {
        let (list, id) = match key.as_str() {
            "drives" => (section.as_array(), "drive_id"),
            "network-interfaces" => (section.as_array(), "iface_id"),
            _ => (None, ""),
        };
        match list {
            Some(list) => requests.extend(list.iter().map(|item| {
                let id = item[id].as_str().unwrap_or("a");
                (format!("/{key}/{id}"), item.to_string())
            })),
            None => requests.push((format!("/{key}"), section.to_string())),
        }
    }
    requests
}
