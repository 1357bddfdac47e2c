//! Log, metrics, boot timer and the serial console's file.

use std::fs;

use koya_api::http::Method;
use koya_tests::vm::{Scratch, Vm};
use serde_json::{Value, json};

use crate::support::{Monitor, config, drive};

/// Splits a line of the log, which has Firecracker's format: `TIME [ID:THREAD:LEVEL:FILE:LINE] TEXT`.
fn split(line: &str) -> (&str, Vec<&str>, &str) {
    let (time, rest) = line.split_once(" [").unwrap_or_else(|| panic!("{line}"));
    let (tags, text) = rest.split_once("] ").unwrap_or_else(|| panic!("{line}"));
    // 2026-01-31T12:34:56.123456789
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999999999", "{line}");
    (time, tags.split(':').collect(), text)
}

#[test]
fn the_log_has_firecrackers_format() {
    let scratch = Scratch::new();
    let log = scratch.path("log");
    let mut monitor = Monitor::with(&["--id", "web-1"]);
    let logger = json!({ "log_path": log, "level": "Debug", "show_level": true, "show_log_origin": true });
    monitor.done(Method::Put, "/logger", &logger);
    monitor.boot("triple", "");
    monitor.vm.expect_exit(1);
    let text = fs::read_to_string(&log).unwrap();
    let (_, tags, text) = split(text.lines().last().unwrap());
    assert_eq!(tags[..3], ["web-1", "main", "ERROR"]);
    assert!(
        tags[3].ends_with(".rs") && tags[4].parse::<u32>().is_ok(),
        "{tags:?}"
    );
    assert_eq!(text, "vCPU 0: the guest triple-faulted");
    // Why it ended is on standard error in any case, and nothing else is.
    assert_eq!(
        monitor.vm.log.text(),
        "koya-vmm: vCPU 0: the guest triple-faulted\n"
    );
}

#[test]
fn the_log_shows_what_the_command_line_asks_for() {
    let scratch = Scratch::new();
    let file = scratch.file("vm.json", config("triple", "", json!({})).to_string());
    let file = file.to_str().unwrap();
    let log = scratch.path("log");
    let log_path = log.to_str().unwrap();
    for (arguments, tags) in [
        (&[][..], &["anonymous-instance", "main"][..]),
        (&["--show-level"], &["anonymous-instance", "main", "ERROR"]),
    ] {
        let base = ["--no-api", "--config-file", file, "--log-path", log_path];
        Vm::start([&base[..], arguments].concat()).expect_exit(1);
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(split(text.lines().last().unwrap()).1, tags);
    }
    assert!(
        fs::read_to_string(&log).unwrap().lines().count() >= 4,
        "it is appended to"
    );
    let mut silent = Vm::start(["--no-api", "--config-file", file, "--level", "Off"]);
    silent.expect_exit(1);
    assert_eq!(silent.log.text(), "koya-vmm: vCPU 0: the guest triple-faulted\n");
}

#[test]
fn the_boot_timer_writes_firecrackers_line() {
    let scratch = Scratch::new();
    let file = scratch.file("vm.json", config("boot-timer", "", json!({})).to_string());
    let file = file.to_str().unwrap();
    let mut timed = Vm::start(["--no-api", "--boot-timer", "--config-file", file]);
    timed.expect_exit(0);
    let log = timed.log.text();
    let (_, _, text) = split(log.lines().find(|line| line.contains("Guest-boot-time")).unwrap());
    // Guest-boot-time =   1234 us 1 ms,    567 CPU us 0 CPU ms
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(
        [words[0], words[1], words[3], words[5]],
        ["Guest-boot-time", "=", "us", "ms,"],
        "{text}"
    );
    let (us, ms): (u64, u64) = (words[2].parse().unwrap(), words[4].parse().unwrap());
    assert_eq!(us / 1000, ms);
    assert!((1..60_000_000).contains(&us), "{text}");
    assert!(text.ends_with("CPU ms"), "{text}");
    // Without the option there is no such device.
    let mut untimed = Vm::start(["--no-api", "--config-file", file]);
    untimed.expect_exit(0);
    assert_eq!(untimed.log.text(), "");
}

fn metrics_of(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn flush_metrics_writes_a_line_of_json() {
    let scratch = Scratch::new();
    let (path, disk) = (scratch.path("metrics"), scratch.disk("disk", 1 << 20));
    let mut monitor = Monitor::with(&["--id", "web-1"]);
    let metrics = json!({ "metrics_path": path, "emit_id": true, "properties": { "zone": "a" } });
    monitor.done(Method::Put, "/metrics", &metrics);
    let message = monitor.refused(Method::Put, "/metrics", &metrics.to_string());
    assert!(message.starts_with("Metrics error"), "{message}");
    monitor.done(Method::Put, "/drives/vda", &drive("vda", &disk, false));
    monitor.boot("tour", "");
    monitor.vm.expect("tour: ready\n");
    monitor.act("FlushMetrics");
    monitor.vm.type_in(b"x").unwrap();
    monitor.vm.expect("block: the same bytes\ntour: ready\n");
    monitor.act("FlushMetrics");
    monitor.act("FlushMetrics");
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
    let lines = metrics_of(&path);
    assert_eq!(lines.len(), 4, "three requests, and the end");
    for line in &lines {
        assert!(
            line["utc_timestamp_ms"].as_u64().unwrap() > 1_700_000_000_000,
            "{line}"
        );
        assert_eq!(
            (&line["id"], &line["properties"]["zone"]),
            (&json!("web-1"), &json!("a"))
        );
    }
    // Counters count since the last line.
    let writes: Vec<_> = lines
        .iter()
        .map(|line| line["block_vda"]["write_count"].as_u64().unwrap())
        .collect();
    assert_eq!(writes[..3], [0, 1, 0], "{lines:?}");
}

#[test]
fn metrics_go_where_the_command_line_says() {
    let scratch = Scratch::new();
    let path = scratch.path("metrics");
    let file = scratch.file("vm.json", config("hello", "", json!({})).to_string());
    let arguments = ["--no-api", "--config-file", file.to_str().unwrap()];
    let metrics = ["--metrics-path", path.to_str().unwrap()];
    Vm::start([&arguments[..], &metrics].concat()).expect_exit(0);
    let lines = metrics_of(&path);
    assert_eq!(lines.len(), 1);
    assert!(lines[0]["uart"].is_object(), "{lines:?}");
}

#[test]
fn flush_metrics_without_metrics_is_no_mistake() {
    let monitor = Monitor::running("spin", "");
    monitor.act("FlushMetrics");
    monitor.terminate();
}

#[test]
fn the_serial_console_goes_to_a_file() {
    let scratch = Scratch::new();
    let path = scratch.file("serial", "before\n");
    let mut monitor = Monitor::start();
    monitor.done(Method::Put, "/serial", &json!({ "serial_out_path": path }));
    monitor.boot("hello", "");
    monitor.vm.expect_exit(0);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "before\nhello from a tiny guest\n"
    );
    assert_eq!(monitor.vm.console.text(), "");
}
