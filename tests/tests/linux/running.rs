//! A Linux guest that runs: what it says, and what is said to its monitor meanwhile.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use koya_api::client::{Client, ClientResponse};
use koya_api::http::Method;
use koya_tests::vm::{PATIENCE, Scratch, Vm};
use serde_json::{Value, json};

use crate::report::Report;

/// Patience with a guest. A boot takes a second or two, ten times that where KVM is emulated, and more on a busy machine.
const GUEST_PATIENCE: Duration = Duration::from_secs(240);

/// A guest and its monitor.
pub struct Running {
    /// The monitor.
    pub vm: Vm,
    /// Removed when the guest has gone.
    _scratch: Scratch,
    socket: PathBuf,
    metrics: PathBuf,
    scripted: bool,
}

impl Running {
    /// A monitor that has been started.
    pub fn new(vm: Vm, scratch: Scratch, socket: PathBuf, metrics: PathBuf, scripted: bool) -> Self {
        Self {
            vm,
            _scratch: scratch,
            socket,
            metrics,
            scripted,
        }
    }

    /// Waits for something on the console.
    pub fn expect(&self, text: &str) {
        if !self.vm.console.wait_for(text, GUEST_PATIENCE) {
            panic!("no {text:?} on the console\n{}", self.vm.transcript());
        }
    }

    /// Waits until the script is at `step NAME`.
    pub fn await_step(&self, name: &str) {
        self.expect(&format!("koya-test: step={name}\r\n"));
    }

    /// Lets a script go on that waits at a step.
    pub fn go_on(&mut self) {
        self.type_in("\n");
    }

    /// Waits until the script is at `step NAME`, does something, and lets it go on.
    pub fn at_step<T>(&mut self, name: &str, act: impl FnOnce(&Self) -> T) -> T {
        self.await_step(name);
        let result = act(self);
        self.go_on();
        result
    }

    /// Types at the console.
    pub fn type_in(&mut self, text: &str) {
        let typed = self.vm.type_in(text.as_bytes());
        assert!(typed.is_ok(), "{typed:?}\n{}", self.vm.transcript());
    }

    /// What the guest has reported so far.
    pub fn report(&self) -> Report {
        Report(self.vm.console.text())
    }

    /// Waits for the guest's end, which must be a good one, and gives what it reported.
    pub fn finish(mut self) -> Report {
        self.await_end()
    }

    /// As [`Self::finish`], for who still wants to look at the files of the guest.
    pub fn await_end(&mut self) -> Report {
        let status = self.vm.wait_within(GUEST_PATIENCE);
        let report = self.report();
        let told = !self.scripted || report.0.contains("koya-guest: exit 0");
        assert!(
            status.code() == Some(0) && told,
            "{status}\n{}",
            self.vm.transcript()
        );
        report
    }

    fn request(&self, method: Method, path: &str, body: Option<&str>) -> ClientResponse {
        let start = Instant::now();
        let mut client = loop {
            match Client::connect(&self.socket, PATIENCE) {
                Ok(client) => break client,
                Err(_) if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error:?}\n{}", self.vm.transcript()),
            }
        };
        match client.request(method, path, body) {
            Ok(response) => response,
            Err(error) => panic!("{method:?} {path}: {error:?}\n{}", self.vm.transcript()),
        }
    }

    fn done(&self, method: Method, path: &str, body: &Value) {
        let response = self.request(method, path, Some(&body.to_string()));
        assert_eq!(
            (response.status, response.fault_message()),
            (204, None),
            "{method:?} {path} {body}\n{}",
            self.vm.transcript()
        );
    }

    /// A `PUT` that must succeed.
    pub fn put(&self, path: &str, body: &Value) {
        self.done(Method::Put, path, body);
    }

    /// A `PATCH` that must succeed.
    pub fn patch(&self, path: &str, body: &Value) {
        self.done(Method::Patch, path, body);
    }

    /// The state in `GET /`: that there is an answer shows that the monitor is well.
    pub fn state(&self) -> String {
        let response = self.request(Method::Get, "/", None);
        let info: Value = response.json().unwrap();
        info["state"].as_str().unwrap().to_owned()
    }

    /// A counter of the metrics, from the start until now.
    pub fn counter(&self, device: &str, name: &str) -> u64 {
        self.put("/actions", &json!({ "action_type": "FlushMetrics" }));
        let text = fs::read_to_string(&self.metrics).unwrap();
        let count = |line: &str| {
            let metrics: Value = serde_json::from_str(line).unwrap();
            metrics[device][name]
                .as_u64()
                .unwrap_or_else(|| panic!("no {device}.{name} in {line}"))
        };
        text.lines().map(count).sum()
    }

    /// Processor time that the thread of the monitor's event loop has taken.
    pub fn event_loop_time(&self) -> Duration {
        let pid = self.vm.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap();
        // proc(5): the name in parentheses may hold anything; utime and stime are fields 14 and 15, in ticks of 10 ms.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }
}
