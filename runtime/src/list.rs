//! `list` and `ps`.

use koya_sandbox::Kind;
use serde_json::{Value, json};

use crate::args::{ListArgs, PsArgs};
use crate::control::{Request, Told, ask};
use crate::error::RuntimeError;
use crate::lifecycle::want;
use crate::record::Status;
use crate::{Context, print};

/// `list`
///
/// # Errors
/// [`RuntimeError`]
pub fn list(context: &Context, args: &ListArgs) -> Result<(), RuntimeError> {
    let records = context.store.list();
    if args.quiet {
        return records.iter().try_for_each(|record| print(&record.id));
    }
    if is_json(&args.format)? {
        let states: Vec<Value> = records.iter().map(|record| record.state()).collect();
        return print(&Value::Array(states).to_string());
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(records.iter().map(|record| {
        [
            record.id.clone(),
            record.pid().to_string(),
            record.status.to_string(),
            record.bundle.display().to_string(),
            record.created.clone(),
            record.owner(),
        ]
    }));
    print(&table(&rows))
}

/// `ps`: the processes that somebody asked for, by their numbers in the guest; what these started is the guest's. As JSON the
/// pids of the host, which is the one that stands for all of them.
///
/// # Errors
/// [`RuntimeError`]
pub fn ps(context: &Context, args: &PsArgs) -> Result<(), RuntimeError> {
    let record = context.store.load(&args.id)?;
    let alive = [Status::Created, Status::Running, Status::Paused];
    want(&record, &alive, "created or running", "asked for its processes")?;
    if is_json(&args.format)? {
        return print(&json!([record.pid()]).to_string());
    }
    let asked = ask(&context.store.folder(&args.id), &args.id, &Request::Processes)?;
    let mut rows = vec![["GUEST PID", "PROCESS"].map(str::to_owned)];
    let pid = asked.get("pid").map(Value::to_string).unwrap_or_default();
    rows.push([pid, "init".to_owned()]);
    let execs = asked.get("execs").and_then(Value::as_array).into_iter().flatten();
    rows.extend(
        execs
            .filter_map(Value::as_str)
            .map(|name| ["-".to_owned(), name.to_owned()]),
    );
    print(&table(&rows))
}

fn is_json(format: &str) -> Result<bool, RuntimeError> {
    match format {
        "json" => Ok(true),
        "table" => Ok(false),
        other => Err(Told::new(
            Kind::Invalid,
            format!("--format is {other:?}; want table or json"),
        )
        .into()),
    }
}

/// Columns, each as wide as its widest.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["ID", "PID"], ["long-one", "1"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "ID         PID\nlong-one   1");
    }
}
