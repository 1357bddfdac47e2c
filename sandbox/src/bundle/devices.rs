//! `linux.devices`: a guest has devices of its own; of the host's it has disks that are named, and nothing else.

use serde_json::{Value, json};

use super::BundleError;
use super::config::{Config, linux, list, wrong};
use super::disks::Disks;

/// Character devices that every kernel has alike, by their numbers (Linux's devices.txt): a container that is given one
/// gets its own kernel's.
const VIRTUAL: [(i64, i64); 13] = [
    (1, 3),    // null
    (1, 5),    // zero
    (1, 7),    // full
    (1, 8),    // random
    (1, 9),    // urandom
    (1, 11),   // kmsg
    (5, 0),    // tty
    (5, 1),    // console
    (5, 2),    // ptmx
    (10, 183), // hwrng
    (10, 200), // net/tun
    (10, 229), // fuse
    (10, 235), // autofs
];

/// null, zero, full, random, urandom, tty, console and ptmx.
const USUAL: [(i64, i64); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
/// What a device may be: of characters, whether buffered or not, of blocks, or a pipe.
const KINDS: [&str; 4] = ["c", "u", "b", "p"];
/// Those behind ptmx.
const TERMINALS: i64 = 136;

/// Leaves the devices that the guest's kernel has, and makes disks of block devices.
pub(super) fn translate(config: &mut Config, disks: &mut Disks) -> Result<(), BundleError> {
    // Whoever may use every device is given all that the host has; of the guest's, he has the virtual ones.
    let privileged = may_use_all(config);
    let linux = linux(config)?;
    let mut kept = Vec::new();
    let devices: Vec<Config> = list(linux, "devices", "linux.devices")?
        .into_iter()
        .cloned()
        .collect();
    let mut rules = rules(linux);
    let were = rules.as_deref().cloned();
    for device in devices {
        let at = device.get("path");
        if !at
            .and_then(Value::as_str)
            .is_some_and(|at| at.starts_with("/dev/"))
        {
            return Err(wrong("linux.devices[].path", at, "a path below /dev"));
        }
        let kind = device.get("type");
        if !kind
            .and_then(Value::as_str)
            .is_some_and(|kind| KINDS.contains(&kind))
        {
            return Err(BundleError::Unsupported {
                what: format!("the device {} is of the type {}", text(at), text(kind)),
                reason: "want \"c\", \"u\", \"b\" or \"p\"",
            });
        }
        if is_virtual(&device) {
            kept.push(Value::Object(device));
        } else if privileged {
            // He has named none: all of the host's are there.
        } else if let Some(disk) = disks.device(&device, were.as_deref(), &mut rules)? {
            kept.push(disk);
        } else {
            let path = device.get("path").and_then(Value::as_str).unwrap_or_default();
            return Err(BundleError::Unsupported {
                what: format!("the device {path:?}"),
                reason: "a character device of the host cannot be used from a microVM; leave it out",
            });
        }
    }
    linux.insert("devices".to_owned(), Value::Array(kept));
    allow_usual(linux);
    Ok(())
}

/// Devices that a container has whatever its rules say (section "Default Devices"): any node may be made, and these be
/// opened. Rules that come later win.
fn allow_usual(linux: &mut Config) {
    let Some(rules) = rules(linux) else {
        // Without rules every device is allowed.
        return;
    };
    for kind in ["c", "b"] {
        rules.push(json!({ "allow": true, "type": kind, "access": "m" }));
    }
    for (major, minor) in USUAL {
        rules.push(json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }));
    }
    rules.push(json!({ "allow": true, "type": "c", "major": TERMINALS, "access": "rwm" }));
}

/// As `config.json` has it.
fn text(value: Option<&Value>) -> String {
    value.unwrap_or(&Value::Null).to_string()
}

fn rules(linux: &mut Config) -> Option<&mut Vec<Value>> {
    let resources = linux.get_mut("resources")?;
    resources.get_mut("devices")?.as_array_mut()
}

fn is_virtual(device: &Config) -> bool {
    let number = |name| device.get(name).and_then(Value::as_i64).unwrap_or(-1);
    let kind = device.get("type").and_then(Value::as_str);
    match kind {
        Some("c" | "u") => VIRTUAL.contains(&(number("major"), number("minor"))),
        Some("p") => true,
        _ => false,
    }
}

/// Whether the rules for devices allow every one, which is what `--privileged` makes of them.
fn may_use_all(config: &Config) -> bool {
    let rules = config
        .get("linux")
        .and_then(|linux| linux.get("resources"))
        .and_then(|resources| resources.get("devices"))
        .and_then(Value::as_array);
    let is_unlimited = |rule: &Value| {
        let unset = |name| rule.get(name).is_none_or(Value::is_null);
        let kind = rule.get("type").and_then(Value::as_str);
        rule.get("allow").and_then(Value::as_bool) == Some(true)
            && unset("major")
            && unset("minor")
            && matches!(kind, None | Some("a" | ""))
    };
    rules.is_some_and(|rules| rules.iter().any(is_unlimited))
}
