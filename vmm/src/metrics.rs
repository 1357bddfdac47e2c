//! The monitor's counters, written as one JSON object a line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::StartTimes;
use crate::time;

/// Writes the counters when asked.
#[derive(Default)]
pub struct MetricsWriter {
    file: Option<File>,
    startup: Option<Value>,
    labels: Map<String, Value>,
}

/// One object of counters, by the name of what it counts.
#[derive(Default)]
pub struct Report(Map<String, Value>);

impl Report {
    /// Adds the counters of the device `id`, and to the sum of all devices of its `kind`.
    pub fn add_device(&mut self, kind: &str, id: &str, counters: &impl Serialize) {
        self.add(format!("{kind}_{id}"), counters);
        let Some(Value::Object(counters)) = self.0.get(&format!("{kind}_{id}")).cloned() else {
            return;
        };
        let sum = self.0.entry(kind).or_insert_with(|| Map::new().into());
        for (name, count) in counters {
            let before = sum.get(&name).and_then(Value::as_u64).unwrap_or(0);
            if let (Some(sum), Some(count)) = (sum.as_object_mut(), count.as_u64()) {
                sum.insert(name, before.saturating_add(count).into());
            }
        }
    }

    /// Adds the counters of one thing.
    pub fn add(&mut self, name: impl Into<String>, counters: &impl Serialize) {
        // Counters are plain integers, which every JSON writer takes.
        if let Ok(value) = serde_json::to_value(counters) {
            self.0.insert(name.into(), value);
        }
    }
}

impl MetricsWriter {
    /// The process is ready; how long that took is in every report.
    pub fn process_started(&mut self, started: StartTimes) {
        self.startup = Some(startup(started));
    }

    /// Whether there is somewhere to write to.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// From now on reports are appended to `file`.
    pub fn open(&mut self, file: File) {
        self.file = Some(file);
    }

    /// Every report from now on carries the microVM's id and these labels.
    pub fn describe(&mut self, id: Option<String>, properties: Option<BTreeMap<String, String>>) {
        self.labels.extend(id.map(|id| ("id".to_owned(), id.into())));
        if let Some(properties) = properties {
            let properties: Map<_, _> = properties
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect();
            self.labels.insert("properties".to_owned(), properties.into());
        }
    }

    /// Writes `report`, if there is somewhere to write to.
    pub fn write(&mut self, mut report: Report) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        report
            .0
            .insert("utc_timestamp_ms".to_owned(), time::unix_ms().into());
        report.0.extend(self.labels.clone());
        if let Some(startup) = &self.startup {
            report.0.insert("api_server".to_owned(), startup.clone());
        }
        let mut line = Value::Object(report.0).to_string();
        line.push('\n');
        file.write_all(line.as_bytes())
    }
}

/// How long the start of the process took, as far as the parent told when it began.
fn startup(started: StartTimes) -> Value {
    let since = |start: Option<u64>, now: u64| start.map_or(0, |start| now.saturating_sub(start));
    let parent_cpu = started.cpu_us.and(started.parent_cpu_us).unwrap_or(0);
    let mut counters = Map::new();
    let wall = since(started.wall_us, time::monotonic_us());
    let cpu = since(started.cpu_us, time::cpu_us()).saturating_add(parent_cpu);
    counters.insert("process_startup_time_us".to_owned(), wall.into());
    counters.insert("process_startup_time_cpu_us".to_owned(), cpu.into());
    Value::Object(counters)
}
