//! Disks that config.json names by their `serial`, as the host cannot know the guest's names and numbers: limits of single
//! disks, devices and the rules for them, and mounts of what is on a disk.

use serde_json::{Map, Value};

use super::disk::{device_number, find};
use crate::error::{Result, invalid};

/// Limits of single disks in `linux.resources.blockIO`.
const LIMITS: [&str; 4] = [
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
];

/// Fills in `major` and `minor` in the limits of disks and the rules for devices.
pub fn in_resources(resources: &mut Value) -> Result<()> {
    for list in LIMITS {
        let entries = resources.get_mut("blockIO").and_then(|block| block.get_mut(list));
        number(&format!("resources.blockIO.{list}"), entries)?;
    }
    number("resources.devices", resources.get_mut("devices"))
}

/// The same in the list of devices.
pub fn in_devices(linux: &mut Value) -> Result<()> {
    number("config.linux.devices", linux.get_mut("devices"))
}

/// Fills in the `source` of mounts.
pub fn in_mounts(config: &mut Map<String, Value>) -> Result<()> {
    each("config.mounts", config.get_mut("mounts"), |mount, disk| {
        let device = find(&disk.serial, disk.bytes)?;
        mount.insert("source".to_owned(), device.to_string_lossy().into());
        Ok(())
    })
}

fn number(list: &str, entries: Option<&mut Value>) -> Result<()> {
    each(list, entries, |entry, disk| {
        let (major, minor) = device_number(&disk.serial, disk.bytes)?;
        entry.insert("major".to_owned(), major.into());
        entry.insert("minor".to_owned(), minor.into());
        Ok(())
    })
}

/// A disk that an entry names.
struct Named {
    serial: String,
    /// The size in `bytes` that it is to have by then; 0 is any.
    bytes: u64,
}

/// Hands every entry that names a disk to `fill`, with the serial taken out.
fn each(
    list: &str,
    entries: Option<&mut Value>,
    fill: impl Fn(&mut Map<String, Value>, &Named) -> Result<()>,
) -> Result<()> {
    for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(fields) = entry.as_object_mut() else {
            continue;
        };
        if let Some(serial) = fields.remove("serial") {
            let serial = serial
                .as_str()
                .ok_or_else(|| invalid(format!("{list} has a serial that is no text")))?
                .to_owned();
            let bytes = match fields.remove("bytes") {
                None => 0,
                Some(bytes) => bytes
                    .as_u64()
                    .ok_or_else(|| invalid(format!("{list} has bytes that are no number")))?,
            };
            fill(fields, &Named { serial, bytes })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn disks_have_numbers_or_serials_of_the_guest() {
        let numbered = json!({
            "blockIO": { "throttleReadBpsDevice": [{ "major": 254, "minor": 0, "rate": 1 }] },
            "devices": [{ "allow": true, "type": "b", "major": 254, "minor": 0, "access": "r" }],
        });
        let mut resources = numbered.clone();
        in_resources(&mut resources).unwrap();
        assert_eq!(resources, numbered);
        let missing = |mut resources: Value| in_resources(&mut resources).unwrap_err().message;
        let limit =
            json!({ "blockIO": { "throttleWriteIOPSDevice": [{ "serial": "no-such-disk", "rate": 1 }] } });
        assert!(missing(limit).contains("no-such-disk"));
        assert!(missing(json!({ "devices": [{ "serial": "no-such-rule" }] })).contains("no-such-rule"));
        assert!(missing(json!({ "devices": [{ "serial": 7 }] })).contains("no text"));
        let rule = json!({ "devices": [{ "serial": "no-such-disk", "bytes": "many" }] });
        assert!(missing(rule).contains("no number"));
        let rule = json!({ "devices": [{ "serial": "no-such-disk", "bytes": 512 }] });
        assert!(missing(rule).contains("512 bytes"));
    }

    #[test]
    fn devices_and_mounts_wait_for_their_disk() {
        let mut linux = json!({ "devices": [{ "type": "b", "path": "/dev/data", "serial": "gone" }] });
        assert!(in_devices(&mut linux).unwrap_err().message.contains("'gone'"));
        let mut config = json!({ "mounts": [{ "destination": "/data", "type": "ext4", "serial": "gone" }] });
        let error = in_mounts(config.as_object_mut().unwrap()).unwrap_err();
        assert!(error.message.contains("'gone'"));
    }
}
