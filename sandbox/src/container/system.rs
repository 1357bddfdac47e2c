//! System containers: a distribution's init as process 1, as systemd's container interface describes it
//! (<https://systemd.io/CONTAINER_INTERFACE>).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Mount;
use super::mounts::below_dev;

/// Which ids of the guest the users of a container have: its root is `first`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The guest's id of the container's root; never 0.
    pub first: u32,
    /// How many ids there are.
    pub size: u32,
}

impl IdMap {
    /// Ids of a container: every distribution's users and groups, `nobody` (65534) among them.
    const SIZE: u32 = 65_536;
    /// Where the first range begins: above the ids that a guest or an image might use.
    const BASE: u32 = 1_048_576;
    /// How many ranges there are below 2³¹, up to which every program understands ids.
    const ROOMS: u32 = (1 << 15) - 16;

    /// The range of a room, by its number in its guest; rooms with different numbers (below 32752) share no id.
    pub fn of_room(number: u32) -> Self {
        let offset = (number % Self::ROOMS).saturating_mul(Self::SIZE);
        Self {
            first: Self::BASE.saturating_add(offset),
            size: Self::SIZE,
        }
    }

    pub(super) fn to_json(self) -> Value {
        json!([{ "containerID": 0, "hostID": self.first, "size": self.size }])
    }
}

/// A type of mounts that the agent knows beside those of the specification: a folder of the disk that takes what the
/// container writes. Its source says nothing.
pub(super) const SCRATCH: &str = "scratch";

/// Where container engines keep their images: podman and CRI-O, docker, containerd. The kernel refuses their overlays on
/// the container's own.
const ENGINES: [&str; 3] = ["/var/lib/containers", "/var/lib/docker", "/var/lib/containerd"];

/// Tells the agent what the specification has no field for.
pub(super) fn annotations() -> Value {
    json!({ "dev.koya.system": "true" })
}

/// Which namespaces a container has of its own.
pub(super) fn namespaces(system: bool, mapped: bool) -> Value {
    let mut names = vec!["pid", "ipc", "uts", "mount", "cgroup", "network"];
    if system {
        names.push("time");
    }
    if mapped {
        names.push("user");
    }
    names.into_iter().map(|name| json!({ "type": name })).collect()
}

/// What an init finds mounted. /sys cannot be written, by which systemd knows that devices are not its business;
/// its cgroups can.
pub(super) fn mounts() -> Vec<Mount> {
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
        Mount::of("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        Mount::of(
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "rw"],
        ),
        Mount::of("tmpfs", "/run", &["nosuid", "nodev", "mode=755"]),
        Mount::of(
            "tmpfs",
            "/run/lock",
            &["nosuid", "nodev", "noexec", "mode=1777", "size=5120k"],
        ),
        Mount::of("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]),
    ]);
    mounts.extend(ENGINES.map(|folder| Mount::of(SCRATCH, folder, &[])));
    mounts
}

/// Tells an init that it is in a container, and which.
pub(super) fn extend_environment(process: &mut Value, uuid: Option<&str>) {
    let Some(environment) = process.get_mut("env").and_then(Value::as_array_mut) else {
        return;
    };
    environment.push("container=koya".into());
    if let Some(uuid) = uuid {
        environment.push(format!("container_uuid={uuid}").into());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn rooms_share_no_id() {
        let first = IdMap::of_room(0);
        let second = IdMap::of_room(1);
        assert!(first.first > 65_536);
        assert_eq!(first.first + first.size, second.first);
        let last = IdMap::of_room(IdMap::ROOMS - 1);
        assert!(u64::from(last.first) + u64::from(last.size) <= 1 << 31);
        assert_eq!(IdMap::of_room(IdMap::ROOMS), first);
    }
}
