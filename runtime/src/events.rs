//! `events`: what a container uses, in the form that runc's readers know.

use std::thread;

use koya_proto::v1::StatsResponse;
use serde_json::{Value, json};

use crate::args::EventsArgs;
use crate::control::{Request, ask};
use crate::error::RuntimeError;
use crate::lifecycle::want;
use crate::record::Status;
use crate::{Context, print};

/// `events`
///
/// # Errors
/// [`RuntimeError`]
pub fn events(context: &Context, args: &EventsArgs) -> Result<(), RuntimeError> {
    let folder = context.store.folder(&args.id);
    let alive = [Status::Created, Status::Running, Status::Paused];
    let record = context.store.load(&args.id)?;
    want(&record, &alive, "created or running", "asked what it uses")?;
    loop {
        let data = match ask(&folder, &args.id, &Request::Stats) {
            // It has ended, and with it its events.
            Err(RuntimeError::Gone(_)) if !args.stats => return Ok(()),
            result => result?,
        };
        print(&json!({ "type": "stats", "id": args.id, "data": data }).to_string())?;
        if args.stats {
            return Ok(());
        }
        thread::sleep(args.interval);
    }
}

/// What the agent counts.
pub fn stats(used: &StatsResponse) -> Value {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(used.cpu_usage_us),
                "kernel": nanoseconds(used.cpu_system_us),
                "user": nanoseconds(used.cpu_user_us),
            },
            "throttling": { "throttledTime": nanoseconds(used.cpu_throttled_us) },
        },
        "memory": {
            "cache": used.memory_inactive_file_bytes,
            "usage": {
                "limit": used.memory_limit_bytes,
                "usage": used.memory_current_bytes,
                "max": used.memory_peak_bytes,
                "failcnt": used.oom_kills,
            },
            "swap": { "limit": 0, "usage": used.swap_current_bytes, "failcnt": 0 },
        },
        "pids": { "current": used.pids_current, "limit": used.pids_limit },
        "blkio": {
            "ioServiceBytesRecursive": [
                { "op": "Read", "value": used.io_read_bytes },
                { "op": "Write", "value": used.io_write_bytes },
            ],
            "ioServicedRecursive": [
                { "op": "Read", "value": used.io_read_operations },
                { "op": "Write", "value": used.io_write_operations },
            ],
        },
    })
}
