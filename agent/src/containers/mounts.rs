//! Mount options that libcontainer passes over: how mounts propagate, options of whole file systems, and changes of mounts
//! that are there already (OCI runtime specification, section "Linux mount options").
//!
//! What can be said in words that it knows is put into these. The rest is done when all is mounted, in the container's own
//! mount namespace: see [`Change`].

use nix::mount::MsFlags;
use serde_json::{Map, Value};

use crate::error::{Result, invalid};
use crate::helper::Change;

/// mount(2)'s flag for mounts whose links are not followed, which nix has no name for.
const NO_LINKS: MsFlags = MsFlags::from_bits_retain(256);

/// How mounts propagate (mount(8)).
const PROPAGATION: [(&str, MsFlags); 4] = [
    ("private", MsFlags::MS_PRIVATE),
    ("shared", MsFlags::MS_SHARED),
    ("slave", MsFlags::MS_SLAVE),
    ("unbindable", MsFlags::MS_UNBINDABLE),
];

/// Options of a file system, whatever mounts it has.
const WHOLE: [(&str, MsFlags); 3] = [
    ("sync", MsFlags::MS_SYNCHRONOUS),
    ("dirsync", MsFlags::MS_DIRSYNC),
    ("lazytime", MsFlags::MS_LAZYTIME),
];

/// Options of one mount.
const OWN: [(&str, MsFlags); 9] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
    ("strictatime", MsFlags::MS_STRICTATIME),
    ("nosymfollow", NO_LINKS),
];

/// The opposites of options, which are how things are unless somebody says otherwise, and those that change nothing: kernels
/// are quiet about mounts, and the file systems of a guest count changes always or never.
const USUAL: [&str; 18] = [
    "defaults",
    "rw",
    "suid",
    "dev",
    "exec",
    "atime",
    "diratime",
    "norelatime",
    "nostrictatime",
    "symfollow",
    "async",
    "nolazytime",
    "mand",
    "nomand",
    "silent",
    "loud",
    "iversion",
    "noiversion",
];

/// Leaves in the mounts of config.json what libcontainer does; the rest.
pub fn take_changes(config: &mut Map<String, Value>) -> Result<Vec<Change>> {
    let Some(mounts) = config.get_mut("mounts").and_then(Value::as_array_mut) else {
        return Ok(Vec::new());
    };
    let mut changes = Vec::new();
    let mut kept = Vec::new();
    for mut mount in mounts.drain(..) {
        let at = mount.get("destination").and_then(Value::as_str);
        let at = at.unwrap_or_default().to_owned();
        let mut none = Vec::new();
        let options = mount.get_mut("options").and_then(Value::as_array_mut);
        let options = options.unwrap_or(&mut none);
        if options.iter().any(|option| option == "remount") {
            changes.push(remount(&at, options)?);
            continue;
        }
        // What was mounted there before is covered now: nobody sees it, and what is to be done would be done to this one.
        changes.retain(|change: &Change| !change.is_below(&at));
        changes.extend(propagation(&at, options));
        let binds = options.iter().any(|option| option == "bind" || option == "rbind");
        in_its_words(options, binds);
        kept.push(mount);
    }
    *mounts = kept;
    Ok(changes)
}

/// How a mount propagates; with `r` before it, all below it as well. Each is one step for the kernel.
fn propagation<'a>(at: &'a str, options: &'a [Value]) -> impl Iterator<Item = Change> {
    options
        .iter()
        .filter_map(Value::as_str)
        .filter_map(move |option| {
            let flags = propagation_of(option)?;
            Some(Change::new(at, flags, ""))
        })
}

fn propagation_of(option: &str) -> Option<MsFlags> {
    let find = |name: &str| {
        let mut all = PROPAGATION.iter();
        all.find(|(known, _)| *known == name).map(|(_, flag)| *flag)
    };
    find(option).or_else(|| Some(find(option.strip_prefix('r')?)? | MsFlags::MS_REC))
}

/// Says in options that libcontainer knows what it would take for its own, or for the file system's.
fn in_its_words(options: &mut Vec<Value>, binds: bool) {
    options.retain(|option| {
        let option = option.as_str().unwrap_or_default();
        let changes_nothing = ["silent", "loud", "iversion", "noiversion", "symfollow"].contains(&option);
        // A bind mount is of a file system that somebody else has mounted.
        let is_anothers = binds && WHOLE.iter().any(|(name, _)| *name == option);
        !changes_nothing && !is_anothers
    });
    for option in options {
        match option.as_str() {
            // It knows the flag and drops it; what has a value goes to the kernel, which looks at the name alone.
            Some("sync") => *option = "sync=".into(),
            Some("dirsync") => *option = "dirsync=".into(),
            Some("nosymfollow") => *option = "rnosymfollow".into(),
            _ => {}
        }
    }
}

/// A change of what is mounted already.
fn remount(at: &str, options: &[Value]) -> Result<Change> {
    let mut flags = MsFlags::MS_REMOUNT;
    let mut data = Vec::new();
    for option in options.iter().filter_map(Value::as_str) {
        let known = WHOLE.iter().chain(&OWN).find(|(name, _)| *name == option);
        match (option, known) {
            (_, Some((_, flag))) => flags |= *flag,
            ("bind", _) => flags |= MsFlags::MS_BIND,
            ("rbind", _) => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            ("remount", _) => {}
            (usual, _) if USUAL.contains(&usual) => {}
            (other, _) if propagation_of(other).is_some() => {
                return Err(invalid(format!(
                    "config.mounts: the one at {at:?} is remount and {other}; want each in a mount of its own"
                )));
            }
            (other, _) => data.push(other),
        }
    }
    Ok(Change::new(at, flags, &data.join(",")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(mounts: Value) -> (Value, Vec<Change>) {
        let mut config = json!({ "mounts": mounts });
        let changes = take_changes(config.as_object_mut().unwrap()).unwrap();
        (config["mounts"].take(), changes)
    }

    #[test]
    fn what_is_covered_is_left_alone() {
        let mount =
            |at: &str, options: Value| json!({ "destination": at, "type": "tmpfs", "options": options });
        let (_, changes) = taken(json!([
            mount("/a/b", json!(["rprivate"])),
            mount("/ab", json!(["rslave"])),
            { "destination": "/a", "type": "tmpfs" },
            mount("/a/c", json!(["shared"])),
        ]));
        let wanted = [
            Change::new("/ab", MsFlags::MS_SLAVE | MsFlags::MS_REC, ""),
            Change::new("/a/c", MsFlags::MS_SHARED, ""),
        ];
        assert_eq!(changes, wanted);
    }

    #[test]
    fn how_a_mount_propagates_is_for_later() {
        let mount = |options: Value| json!([{ "destination": "/a", "type": "bind", "source": "/b", "options": options }]);
        for (option, flags) in [
            ("private", MsFlags::MS_PRIVATE),
            ("rprivate", MsFlags::MS_PRIVATE | MsFlags::MS_REC),
            ("shared", MsFlags::MS_SHARED),
            ("rshared", MsFlags::MS_SHARED | MsFlags::MS_REC),
            ("slave", MsFlags::MS_SLAVE),
            ("rslave", MsFlags::MS_SLAVE | MsFlags::MS_REC),
            ("unbindable", MsFlags::MS_UNBINDABLE),
            ("runbindable", MsFlags::MS_UNBINDABLE | MsFlags::MS_REC),
        ] {
            let (_, changes) = taken(mount(json!(["rbind", option])));
            assert_eq!(changes, [Change::new("/a", flags, "")], "{option}");
        }
        let (mounts, changes) = taken(mount(json!(["rbind", "ro", "relatime"])));
        assert_eq!(
            (mounts, changes),
            (mount(json!(["rbind", "ro", "relatime"])), vec![])
        );
    }

    #[test]
    fn every_option_of_the_specification_is_one_for_libcontainer_or_the_kernel() {
        let all = [
            "async",
            "atime",
            "defaults",
            "dev",
            "diratime",
            "dirsync",
            "exec",
            "iversion",
            "lazytime",
            "loud",
            "noatime",
            "nodev",
            "nodiratime",
            "noexec",
            "noiversion",
            "nolazytime",
            "norelatime",
            "nostrictatime",
            "nosuid",
            "nosymfollow",
            "relatime",
            "ro",
            "rw",
            "silent",
            "strictatime",
            "suid",
            "sync",
            "size=1m",
        ];
        let own = json!([{ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": all }]);
        let (mounts, changes) = taken(own);
        let options = mounts[0]["options"].as_array().unwrap();
        let has = |name: &str| options.iter().any(|option| option == name);
        for there in [
            "sync=",
            "dirsync=",
            "lazytime",
            "nolazytime",
            "rnosymfollow",
            "noexec",
            "size=1m",
        ] {
            assert!(has(there), "{there}: {options:?}");
        }
        for gone in ["sync", "silent", "loud", "iversion", "noiversion"] {
            assert!(!has(gone), "{gone}: {options:?}");
        }
        assert_eq!(changes, []);
        let bind = json!([{ "destination": "/b", "type": "bind", "source": "/x", "options": ["bind", "sync", "noexec"] }]);
        assert_eq!(taken(bind).0[0]["options"], json!(["bind", "noexec"]));
    }

    #[test]
    fn what_is_mounted_already_is_changed() {
        let (mounts, changes) = taken(json!([
            { "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"] },
            { "destination": "/t", "options": ["remount", "ro", "exec", "sync", "size=2m", "mode=700"] },
            { "destination": "/b", "options": ["remount", "bind", "nosuid"] },
        ]));
        assert_eq!(mounts.as_array().unwrap().len(), 1);
        let whole = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_SYNCHRONOUS;
        let one = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID;
        assert_eq!(
            changes,
            [
                Change::new("/t", whole, "size=2m,mode=700"),
                Change::new("/b", one, "")
            ]
        );
        let mut both = json!({ "mounts": [{ "destination": "/t", "options": ["remount", "rshared"] }] });
        let error = take_changes(both.as_object_mut().unwrap()).unwrap_err();
        assert!(error.message.contains("rshared"), "{error}");
    }
}
