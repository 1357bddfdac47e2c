//! What is mounted in a container.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ContainerSpec, system};

/// One mount of the specification (section "Mounts").
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Where, in the container; absolute.
    pub destination: String,
    /// `bind`, `tmpfs`, or another file system of the guest's kernel.
    #[serde(rename = "type")]
    pub kind: String,
    /// What: for a bind mount a path of the guest.
    pub source: String,
    /// As mount(8) takes them: `ro`, `nosuid`, `size=64m`, `rbind`.
    pub options: Vec<String>,
}

impl Mount {
    /// A mount from literals.
    pub(super) fn of(kind: &str, destination: &str, options: &[&str]) -> Self {
        Self {
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            source: kind.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }
}

/// All mounts of a container. One that it asks for takes the place of a usual one at the same path, and of a folder of
/// the scratch disk further below, too.
pub(super) fn all(spec: &ContainerSpec) -> Value {
    let usual = if spec.process.system {
        system::mounts()
    } else {
        usual(spec.process.privileged)
    };
    let covers = |added: &Mount, mount: &Mount| {
        let (above, at) = (Path::new(&added.destination), Path::new(&mount.destination));
        above == at || mount.kind == system::SCRATCH && at.starts_with(above)
    };
    let mut mounts: Vec<Mount> = usual
        .into_iter()
        .filter(|mount| !spec.mounts.iter().any(|added| covers(added, mount)))
        .collect();
    mounts.extend(spec.mounts.iter().cloned());
    json!(mounts)
}

/// What an application container has.
fn usual(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        Mount::of("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        Mount::of(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
    ];
    mounts.extend(below_dev());
    mounts.extend([
        Mount::of("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
        Mount::of(
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]);
    mounts
}

/// What is in every container's /dev.
pub(super) fn below_dev() -> [Mount; 3] {
    [
        Mount::of(
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        Mount::of("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        Mount::of(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
    ]
}
