//! `linux.resources` of config.json and of Update: what the host says about disks
//! is made the kernel's, and new limits are applied.

use std::path::Path;

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use libcontainer::oci_spec::runtime::LinuxResources;
use serde::Deserialize;
use serde_json::Value;

use super::cgroup::{Cgroup, MOUNT};
use super::disk::device_number;
use crate::error::{Result, invalid, runtime};

/// Longest `resources` of Update.
const MAX_UPDATE: usize = 64 << 10;
/// Limits of single disks.
const DISKS: [&str; 4] = [
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
];

/// Fills in `major` and `minor` where a disk is named by its `serial`: the host
/// cannot know the guest's numbers.
pub fn name_disks(resources: &mut Value) -> Result<()> {
    for list in DISKS {
        let entries = resources.get_mut("blockIO").and_then(|block| block.get_mut(list));
        for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(fields) = entry.as_object_mut() else {
                continue;
            };
            if let Some(serial) = fields.remove("serial") {
                let serial = serial.as_str().ok_or_else(|| {
                    invalid(format!("resources.blockIO.{list} has a serial that is no text"))
                })?;
                let (major, minor) = device_number(serial)?;
                fields.insert("major".to_owned(), major.into());
                fields.insert("minor".to_owned(), minor.into());
            }
        }
    }
    Ok(())
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
    name_disks(&mut json)?;
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
    use serde_json::json;

    use super::*;

    #[test]
    fn disks_have_numbers_or_serials_of_the_guest() {
        let numbered =
            json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": 254, "minor": 0, "rate": 1 }] } });
        let mut resources = numbered.clone();
        name_disks(&mut resources).unwrap();
        assert_eq!(resources, numbered);
        let mut missing =
            json!({ "blockIO": { "throttleWriteIOPSDevice": [{ "serial": "no-such-disk", "rate": 1 }] } });
        assert!(
            name_disks(&mut missing)
                .unwrap_err()
                .message
                .contains("no-such-disk")
        );
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
