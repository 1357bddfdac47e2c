//! The process object: what of it only the host could honour.

use serde_json::Value;

use super::BundleError;
use super::config::{Config, wrong};

/// Checks the first process; whether it has a terminal. Labels of the host's security modules go: the guest has none of
/// them, and what they would confine cannot reach the host.
pub(super) fn check(config: &mut Config) -> Result<bool, BundleError> {
    let process = config.get_mut("process");
    match process {
        Some(Value::Object(process)) => check_object(process, "process"),
        other => Err(wrong("process", other.as_deref(), "an object")),
    }
}

/// A process object for `exec`, checked and without what is of the host; whether it has a terminal.
///
/// # Errors
/// [`BundleError`]
pub fn exec_process(process: &mut Value) -> Result<bool, BundleError> {
    match process {
        Value::Object(process) => check_object(process, "process"),
        other => Err(wrong("process", Some(other), "an object")),
    }
}

fn check_object(process: &mut Config, name: &str) -> Result<bool, BundleError> {
    let args = process.get("args");
    let first = args.and_then(Value::as_array).and_then(|args| args.first());
    if first.and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(wrong(
            format!("{name}.args"),
            first.or(args),
            "a list that begins with the program to run",
        ));
    }
    let cwd = process.get("cwd");
    if !cwd
        .and_then(Value::as_str)
        .is_some_and(|cwd| cwd.starts_with('/'))
    {
        return Err(wrong(format!("{name}.cwd"), cwd, "an absolute path"));
    }
    for label in ["selinuxLabel", "apparmorProfile"] {
        process.remove(label);
    }
    match process.get("terminal") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(terminal)) => Ok(*terminal),
        other => Err(wrong(format!("{name}.terminal"), other, "true or false")),
    }
}
