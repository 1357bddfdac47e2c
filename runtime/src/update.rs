//! `update`: new limits for a container that runs.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use koya_sandbox::bundle::for_update;
use serde_json::{Value, json};

use crate::Context;
use crate::args::UpdateArgs;
use crate::control::{Request, ask};
use crate::error::RuntimeError;
use crate::record::Status;

/// Longest list of limits that is read.
const MAX_RESOURCES: u64 = 64 << 10;

/// `update`
///
/// # Errors
/// [`RuntimeError`]
pub fn update(context: &Context, args: &UpdateArgs) -> Result<(), RuntimeError> {
    let record = context.store.load(&args.id)?;
    if matches!(record.status, Status::Stopped | Status::Creating) {
        return Err(RuntimeError::State {
            id: record.id,
            status: record.status,
            wanted: "created or running",
            verb: "updated",
        });
    }
    let mut resources = match &args.resources {
        Some(path) => read(path)?,
        None => of_words(args),
    };
    for_update(&mut resources)?;
    ask(
        &context.store.folder(&args.id),
        &args.id,
        &Request::Update(resources),
    )
    .map(drop)
}

fn read(path: &Path) -> Result<Value, RuntimeError> {
    let mut text = String::new();
    let result = match path.to_str() {
        Some("-") => io::stdin().take(MAX_RESOURCES).read_to_string(&mut text),
        _ => fs::File::open(path).and_then(|file| file.take(MAX_RESOURCES).read_to_string(&mut text)),
    };
    result.map_err(RuntimeError::given("read", path))?;
    serde_json::from_str(&text).map_err(RuntimeError::given("understand", path))
}

/// The limits of the command line, as the specification names them.
fn of_words(args: &UpdateArgs) -> Value {
    let mut resources = json!({ "memory": {}, "cpu": {}, "pids": {} });
    let mut set = |group: &str, name: &str, value: Option<Value>| {
        if let Some(value) = value
            && let Some(fields) = resources.get_mut(group).and_then(Value::as_object_mut)
        {
            fields.insert(name.to_owned(), value);
        }
    };
    set("memory", "limit", args.memory.map(Value::from));
    set("memory", "reservation", args.memory_reservation.map(Value::from));
    set("memory", "swap", args.memory_swap.map(Value::from));
    set("cpu", "quota", args.cpu_quota.map(Value::from));
    set("cpu", "period", args.cpu_period.map(Value::from));
    set("cpu", "shares", args.cpu_share.map(Value::from));
    set("pids", "limit", args.pids_limit.map(Value::from));
    if let Some(fields) = resources.as_object_mut() {
        fields.retain(|_, group| group.as_object().is_some_and(|group| !group.is_empty()));
    }
    resources
}
