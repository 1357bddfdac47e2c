//! `linux.resources` of Update: new limits are applied.

use std::path::Path;

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use libcontainer::oci_spec::runtime::LinuxResources;
use serde::Deserialize;
use serde_json::Value;

use super::cgroup::{Cgroup, MOUNT};
use super::named;
use crate::error::{Result, invalid, runtime};

/// Longest `resources` of Update.
const MAX_UPDATE: usize = 64 << 10;
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
    named::in_resources(&mut json)?;
    let resources = LinuxResources::deserialize(json).map_err(wrong)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
