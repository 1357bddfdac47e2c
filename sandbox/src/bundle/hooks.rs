//! Programs of the host that are told of a container's life (OCI runtime specification, section "POSIX-platform Hooks").

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BundleError;
use super::config::{Config, wrong};

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// With its own name as the first; empty: the path alone.
    #[serde(default)]
    pub args: Vec<String>,
    /// `NAME=value`; nothing else.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(default)]
    pub timeout: Option<u64>,
}

/// Those that run on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Before the microVM boots.
    pub prestart: Vec<Hook>,
    /// After those.
    pub create_runtime: Vec<Hook>,
    /// After those; on the host, as the container's namespaces are in the guest.
    pub create_container: Vec<Hook>,
    /// In the container, before its program: not possible from here.
    pub start_container: Vec<Hook>,
    /// After the program has been started.
    pub poststart: Vec<Hook>,
    /// After the container has been deleted.
    pub poststop: Vec<Hook>,
}

pub(super) fn take(config: &mut Config) -> Result<Hooks, BundleError> {
    const WANTED: &str = "lists of hooks, each with an absolute path";
    let value = config.remove("hooks").unwrap_or(Value::Null);
    if value.is_null() {
        return Ok(Hooks::default());
    }
    let mut value = value;
    // A list that is null is empty.
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, list| !list.is_null());
    }
    let hooks = Hooks::deserialize(&value).map_err(|_| wrong("hooks", Some(&value), WANTED))?;
    let all = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    if all.into_iter().flatten().any(|hook| !hook.path.is_absolute()) {
        return Err(wrong("hooks[].path", None, WANTED));
    }
    if let Some(hook) = all.into_iter().flatten().find(|hook| hook.timeout == Some(0)) {
        return Err(BundleError::Unsupported {
            what: format!("the timeout of the hook {:?} is 0", hook.path),
            reason: "want more than 0 seconds, or none at all",
        });
    }
    if let Some(hook) = hooks.start_container.first() {
        return Err(BundleError::Unsupported {
            what: format!("the startContainer hook {:?}", hook.path),
            reason: "programs of the host cannot run in the guest; use createContainer or poststart",
        });
    }
    Ok(hooks)
}
