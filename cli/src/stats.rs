//! `koya stats`: what containers use, again and again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::v1::StatsResponse;
use koya_sandbox::state::{Container, Records, Status};
use serde_json::{Value, json};

use crate::args::StatsArgs;
use crate::error::CliError;
use crate::home::{Home, agent_of};
use crate::show::{self, Form};
use crate::size;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Puts the cursor to the upper left, and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What was used at a moment.
struct Sample {
    at: Instant,
    stats: StatsResponse,
}

/// `koya stats`
///
/// # Errors
/// [`CliError`]
pub fn stats(args: &StatsArgs) -> Result<ExitCode, CliError> {
    let form = Form::parse(&args.format)?;
    let records = Home::find()?.records()?;
    let mut before = BTreeMap::new();
    sample(&records, args, &mut before)?;
    let live = !args.no_stream && matches!(form, Form::Table) && io::stdout().is_terminal();
    loop {
        // Use of the processors is between two moments.
        thread::sleep(PERIOD);
        let lines = sample(&records, args, &mut before)?;
        if live {
            write!(io::stdout(), "{CLEAR}")?;
        }
        show::list(&form, COLUMNS, &lines)?;
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

const COLUMNS: [(&str, &str); 8] = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
    ("VM", "VM"),
];

/// A line for each container, from what it used before and uses now.
fn sample(
    records: &Records,
    args: &StatsArgs,
    before: &mut BTreeMap<String, Sample>,
) -> Result<Vec<Value>, CliError> {
    let chosen = if args.containers.is_empty() {
        let mut all = records.list()?;
        all.retain(|container| container.status == Status::Running);
        all
    } else {
        let found = args.containers.iter().map(|name| records.find(name));
        found.collect::<Result<Vec<_>, _>>()?
    };
    let mut lines = Vec::new();
    for container in chosen {
        let stats = match agent_of(records, &container).and_then(|agent| Ok(agent.stats(&container.id)?)) {
            Ok(stats) => stats,
            // It ended between two looks.
            Err(_) if args.containers.is_empty() => continue,
            Err(error) => return Err(error),
        };
        let now = Sample {
            at: Instant::now(),
            stats,
        };
        lines.push(line(&container, before.get(&container.id), &now));
        before.insert(container.id, now);
    }
    Ok(lines)
}

fn line(container: &Container, before: Option<&Sample>, now: &Sample) -> Value {
    let stats = &now.stats;
    let cpu = before.map_or(0.0, |before| {
        let used = stats.cpu_usage_us.saturating_sub(before.stats.cpu_usage_us);
        let passed = now.at.duration_since(before.at).as_micros();
        100.0 * used as f64 / passed.max(1) as f64
    });
    // As docker counts: page cache that can be dropped is not used.
    let memory = stats
        .memory_current_bytes
        .saturating_sub(stats.memory_inactive_file_bytes);
    let limit = match stats.memory_limit_bytes {
        0 => "no limit".to_owned(),
        limit => size::show(limit),
    };
    let share = match stats.memory_limit_bytes {
        0 => 0.0,
        limit => 100.0 * memory as f64 / limit as f64,
    };
    json!({
        "ID": container.id,
        "Name": container.name,
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {limit}", size::show(memory)),
        "MemPerc": format!("{share:.2}%"),
        "BlockIO": format!("{} / {}", size::show(stats.io_read_bytes), size::show(stats.io_write_bytes)),
        "PIDs": stats.pids_current,
        "VM": container.vm,
    })
}
