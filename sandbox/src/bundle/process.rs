//! The process object: what of it only the host could honour, and what is wrong in it.

use serde_json::Value;

use super::BundleError;
use super::config::{Config, wrong};
use crate::container::every_capability;

/// What of a process is not the guest's to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Rows and columns that the terminal is to have at first, if that is said.
    pub size: Option<(u16, u16)>,
    /// What is asked for in vain.
    pub left_out: Vec<String>,
}

/// Checks the first process. Labels of the host's security modules go: the guest has none of them, and what they would
/// confine cannot reach the host.
pub(super) fn check(config: &mut Config) -> Result<Checked, BundleError> {
    let process = config.get_mut("process");
    match process {
        Some(Value::Object(process)) => check_object(process, "process"),
        other => Err(wrong("process", other.as_deref(), "an object")),
    }
}

/// A process object for `exec`, checked and without what is of the host.
///
/// # Errors
/// [`BundleError`]
pub fn exec_process(process: &mut Value) -> Result<Checked, BundleError> {
    match process {
        Value::Object(process) => check_object(process, "process"),
        other => Err(wrong("process", Some(other), "an object")),
    }
}

fn check_object(process: &mut Config, name: &str) -> Result<Checked, BundleError> {
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
    let terminal = match process.get("terminal") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(terminal)) => *terminal,
        other => return Err(wrong(format!("{name}.terminal"), other, "true or false")),
    };
    each_limit_once(process, name)?;
    Ok(Checked {
        terminal,
        size: if terminal { size(process, name)? } else { None },
        left_out: without_unknown_capabilities(process, name),
    })
}

/// Two limits of one kind would contradict each other.
fn each_limit_once(process: &Config, name: &str) -> Result<(), BundleError> {
    let limits = process.get("rlimits").and_then(Value::as_array);
    let mut kinds: Vec<_> = limits
        .into_iter()
        .flatten()
        .map(|limit| limit.get("type").and_then(Value::as_str).unwrap_or_default())
        .collect();
    kinds.sort_unstable();
    let twice = kinds
        .iter()
        .zip(kinds.iter().skip(1))
        .find(|(one, next)| one == next);
    match twice {
        None => Ok(()),
        Some((kind, _)) => Err(BundleError::Unsupported {
            what: format!("{name}.rlimits has {kind:?} twice"),
            reason: "a process has one limit of each kind",
        }),
    }
}

/// Takes out the capabilities that no kernel has; their names. A newer engine may know more of them, and the process can
/// do without.
fn without_unknown_capabilities(process: &mut Config, name: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for (set, list) in sets.into_iter().flatten() {
        if let Some(list) = list.as_array_mut() {
            list.retain(|capability| {
                // What is no text is told by the guest.
                let known = capability.as_str().is_none_or(is_known);
                if !known {
                    unknown.push(format!("{capability} of {name}.capabilities.{set}"));
                }
                known
            });
        }
    }
    unknown
}

fn is_known(capability: &str) -> bool {
    let short = capability.strip_prefix("CAP_");
    short.is_some_and(|short| every_capability().any(|known| known == short))
}

/// Rows and columns of `consoleSize`.
fn size(process: &Config, name: &str) -> Result<Option<(u16, u16)>, BundleError> {
    let size = match process.get("consoleSize") {
        None | Some(Value::Null) => return Ok(None),
        Some(size) => size,
    };
    let number = |side| u16::try_from(size.get(side)?.as_u64()?).ok();
    match (number("height"), number("width")) {
        (Some(rows), Some(columns)) => Ok(Some((rows, columns))),
        _ => Err(wrong(
            format!("{name}.consoleSize"),
            Some(size),
            "height and width, each up to 65535",
        )),
    }
}
