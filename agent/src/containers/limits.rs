//! `linux.resources` of Update: new limits are applied.

use std::path::Path;

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use libcontainer::oci_spec::runtime::LinuxResources;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cgroup::{Cgroup, MOUNT};
use super::huge;
use super::named;
use crate::error::{Result, invalid, runtime};

/// Longest `resources` of Update.
const MAX_UPDATE: usize = 64 << 10;
/// Makes the container's resources those of the kernel.
pub fn prepare(resources: &mut Value) -> Result<()> {
    named::in_resources(resources)?;
    without_swap(resources);
    huge::allow(resources);
    check_unified(resources)
}

/// No swap beside the memory is 0 in the kernel's file, which libcgroups does not write.
fn without_swap(resources: &mut Value) {
    /// There is no such file where the kernel cannot swap.
    const SWAPS: &str = "/proc/swaps";
    let Some(memory) = resources.get_mut("memory").and_then(Value::as_object_mut) else {
        return;
    };
    let bytes = |name| {
        memory
            .get(name)
            .and_then(Value::as_i64)
            .filter(|&bytes| bytes > 0)
    };
    if bytes("swap").is_none() || bytes("swap") != bytes("limit") || !Path::new(SWAPS).exists() {
        return;
    }
    memory.remove("swap");
    let Some(fields) = resources.as_object_mut() else {
        return;
    };
    let unified = fields.entry("unified").or_insert(Value::Null);
    if unified.is_null() {
        *unified = json!({});
    }
    if let Some(unified) = unified.as_object_mut() {
        unified.entry("memory.swap.max").or_insert_with(|| "0".into());
    }
}

/// Files of the container's cgroup, and no others.
fn check_unified(resources: &Value) -> Result<()> {
    let unified = resources.get("unified").and_then(Value::as_object);
    let mut names = unified.into_iter().flat_map(|files| files.keys());
    match names.find(|name| name.contains('/') || name.is_empty()) {
        None => Ok(()),
        Some(name) => Err(invalid(format!(
            "resources.unified names {name:?}; want the name of a file of the cgroup, as memory.high"
        ))),
    }
}

/// Gives a container's cgroup new limits; what is left out stays as it is.
pub fn update(cgroup: &Cgroup, bytes: &[u8]) -> Result<()> {
    if bytes.len() > MAX_UPDATE {
        return Err(invalid(format!(
            "resources has {} bytes; at most {MAX_UPDATE} are taken",
            bytes.len()
        )));
    }
    let wrong = |error: serde_json::Error| {
        invalid(format!(
            "resources is not what the OCI runtime specification describes: {error}"
        ))
    };
    let mut json: Value = serde_json::from_slice(bytes).map_err(wrong)?;
    if json.get("devices").is_some() {
        return Err(invalid(
            "resources.devices cannot be changed; it is for the creation of a container",
        ));
    }
    prepare(&mut json)?;
    let resources = LinuxResources::deserialize(json).map_err(wrong)?;
    check_use(cgroup, &resources)?;
    let options = ControllerOpt {
        resources: &resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    let failed = |error: &dyn std::error::Error| {
        runtime("set the container's limits")(std::io::Error::other(error.to_string()))
    };
    Manager::new(
        Path::new(MOUNT).to_path_buf(),
        Path::new(cgroup.name()).to_path_buf(),
    )
    .map_err(|error| failed(&error))?
    .apply(&options)
    .map_err(|error| failed(&error))
}

/// cgroup v2 kills processes where less is allowed than they use; who wants to be asked before is refused.
fn check_use(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    let memory = resources.memory().as_ref();
    let Some(limit) = memory.filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let limit = limit.limit().and_then(|limit| u64::try_from(limit).ok());
    let used = cgroup.stats().memory_current_bytes;
    match limit.filter(|limit| *limit < used) {
        None => Ok(()),
        Some(limit) => Err(invalid(format!(
            "resources.memory.limit is {limit}, and the container uses {used} bytes"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_memory_with_swap_as_without_is_none() {
        let prepared = |mut resources: Value| {
            prepare(&mut resources).unwrap();
            resources
        };
        let equal = json!({ "memory": { "limit": 4096, "swap": 4096 } });
        assert_eq!(
            prepared(equal),
            json!({ "memory": { "limit": 4096 }, "unified": { "memory.swap.max": "0" } })
        );
        for other in [
            json!({ "memory": { "limit": 4096, "swap": 8192 } }),
            json!({ "memory": { "limit": -1, "swap": -1 } }),
            json!({ "memory": { "limit": 4096 } }),
        ] {
            assert_eq!(prepared(other.clone()), other);
        }
        let mut outside = json!({ "unified": { "../cgroup.freeze": "1" } });
        let error = prepare(&mut outside).unwrap_err();
        assert!(error.message.contains("../cgroup.freeze"), "{error}");
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let cgroup = Cgroup::of("koya-no-such", "web");
        let message = |text: &str| update(&cgroup, text.as_bytes()).unwrap_err().message;
        assert!(message("x").contains("resources"));
        assert!(message(r#"{ "devices": [] }"#).contains("devices"));
        assert!(message(r#"{ "memory": { "limit": "much" } }"#).contains("resources"));
        assert!(message(&" ".repeat(MAX_UPDATE + 1)).contains("at most"));
        // The cgroup is not there.
        assert!(message(r#"{ "memory": { "limit": 4096 } }"#).contains("limits"));
    }
}
