//! From the start of the VMM's process to the first byte of a guest that goes on from a snapshot.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use koya_api::client::Client;
use koya_api::http::Method;
use serde_json::{Value, json};

use super::{Better, Context, Figure, Goal, Measurement, milliseconds};
use crate::bench::BenchError;
use crate::bench::process::{Process, later};
use crate::bench::vmm::{Kind, Machine, Vmm};

/// The guest is frozen while it writes, so that it writes as soon as it goes on: for longer than anybody waits.
const BYTES: u64 = 1 << 40;
const PAUSE: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug)]
pub struct Fork;

const FIGURES: [Figure; 1] = [Figure {
    name: "fork",
    title: "Spawn → first byte of a fork of a guest",
    unit: "ms",
    better: Better::Lower,
    goal: Some(Goal::AtMost(1.0)),
}];

impl Measurement for Fork {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    /// The others are told of a snapshot by their control sockets only.
    fn applies_to(&self, kind: Kind) -> bool {
        kind == Kind::Koya
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let files = Files::of(context);
        if !files.config.exists() {
            files.make(vmm, context)?;
        }
        let mut arguments: Vec<OsString> = ["--no-api", "--config-file"].map(OsString::from).to_vec();
        arguments.push(files.config.clone().into());
        let mut process = Process::spawn(&vmm.command(arguments), &context.errors())?;
        let when = process.first_byte(context.limit)?;
        Ok(vec![milliseconds(&process, when)])
    }
}

/// A snapshot, and the configuration of its forks.
struct Files {
    state: PathBuf,
    memory: PathBuf,
    config: PathBuf,
}

impl Files {
    fn of(context: &Context) -> Self {
        let file = |name| context.scratch.join(name);
        Self {
            state: file("fork.state"),
            memory: file("fork.memory"),
            config: file("fork.json"),
        }
    }

    fn make(&self, vmm: &Vmm, context: &Context) -> Result<(), BenchError> {
        let mut machine = Machine::tiny(context.guest("flood"));
        machine.cmdline = format!("n={BYTES}");
        let socket = context.scratch.join("fork.sock");
        let mut arguments = vmm.kind.arguments(&machine, context.kvm, &context.scratch)?;
        arguments.retain(|argument| argument != "--no-api");
        arguments.extend([OsString::from("--api-sock"), socket.clone().into()]);
        let mut process = Process::spawn(&vmm.command(arguments), &context.errors())?;
        process.first_byte(context.limit)?;
        let deadline = later(context.limit);
        let mut client = loop {
            match Client::connect(&socket, context.limit) {
                Ok(client) => break client,
                Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
                Err(error) => return Err(refused(&error.to_string())),
            }
        };
        let mut ask = |method, path, body: &Value| {
            let response = client.request(method, path, Some(&body.to_string()));
            match response {
                Ok(response) if response.is_success() => Ok(()),
                Ok(response) => Err(refused(&String::from_utf8_lossy(&response.body))),
                Err(error) => Err(refused(&error.to_string())),
            }
        };
        ask(Method::Patch, "/vm", &json!({ "state": "Paused" }))?;
        let create = json!({ "snapshot_path": self.state, "mem_file_path": self.memory });
        ask(Method::Put, "/snapshot/create", &create)?;
        let backend = json!({ "backend_type": "File", "backend_path": self.memory });
        let config = json!({ "snapshot": { "snapshot_path": self.state, "mem_backend": backend } });
        fs::write(&self.config, config.to_string()).map_err(BenchError::path("write", &self.config))
    }
}

fn refused(found: &str) -> BenchError {
    BenchError::Output {
        expected: "a snapshot",
        found: found.to_owned(),
    }
}
