//! Owners of files, shifted for a container with a user namespace.
//!
//! Images and scratch disks hold the ids that the container's own users have, 0
//! and up; in the guest those users are others, 1048576 and up. So each layer is
//! an *idmapped* mount (mount_setattr(2), MOUNT_ATTR_IDMAP), and what is on disk
//! does not depend on the range that a container happens to have.
//!
//! ```text
//!  on disk 0 ──► idmapped mount of the layer ──► 1048576 in the overlay ──► 0 in the user namespace
//! ```
//!
//! In Linux 6.12 EROFS, squashfs, ext4 and tmpfs can be mounted so, and overlayfs
//! takes such mounts as its layers, upper and work folder included. A finished
//! overlay cannot be shifted. overlayfs does its own work as whoever mounted it,
//! who has to be somebody in the mapping: see [`Shift::as_root`].

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use crate::children::Children;
use crate::error::{Result, invalid, runtime, storage};
use crate::helper::{Call, Request};
use crate::sys::{Deadline, path_bytes};

/// The kernel's own limit (user_namespaces(7)).
const MAX_LINES: usize = 340;

/// Ids of a container, as the kernel's uid_map and gid_map have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    users: Vec<Range>,
    groups: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    container: u32,
    guest: u32,
    size: u32,
}

impl IdMap {
    /// From `linux` of config.json: the mappings of a user namespace that is made
    /// for this container, if one is.
    pub fn of(linux: &Value) -> Result<Option<Self>> {
        let namespaces = linux.get("namespaces").and_then(Value::as_array);
        let made = namespaces.into_iter().flatten().any(|namespace| {
            namespace.get("type").and_then(Value::as_str) == Some("user")
                && namespace.get("path").is_none_or(Value::is_null)
        });
        if !made {
            return Ok(None);
        }
        Ok(Some(Self {
            users: ranges(linux, "uidMappings")?,
            groups: ranges(linux, "gidMappings")?,
        }))
    }

    /// User and group of the container's root, in the guest.
    pub fn root(&self) -> Result<(u32, u32)> {
        let first = |ranges: &[Range]| {
            let range = ranges.iter().find(|range| range.container == 0);
            range.map(|range| range.guest).ok_or_else(|| {
                invalid("config.linux.uidMappings and gidMappings leave out the container's root, id 0")
            })
        };
        Ok((first(&self.users)?, first(&self.groups)?))
    }

    /// Whether there are several ranges of users or groups.
    pub fn has_several(&self) -> bool {
        self.users.len().max(self.groups.len()) > 1
    }

    /// The contents of uid_map and gid_map.
    fn texts(&self) -> [String; 2] {
        [&self.users, &self.groups].map(|ranges| {
            let lines = ranges
                .iter()
                .map(|range| format!("{} {} {}\n", range.container, range.guest, range.size));
            lines.collect()
        })
    }
}

fn ranges(linux: &Value, field: &str) -> Result<Vec<Range>> {
    let wrong = || {
        invalid(format!(
            "config.linux.{field} is not what a user namespace needs; want 1 to {MAX_LINES} of containerID, hostID, size"
        ))
    };
    let list = linux.get(field).and_then(Value::as_array).ok_or_else(wrong)?;
    if list.is_empty() || list.len() > MAX_LINES {
        return Err(wrong());
    }
    let range = |entry: &Value| {
        let number = |name| u32::try_from(entry.get(name)?.as_u64()?).ok();
        let (container, guest, size) = (number("containerID")?, number("hostID")?, number("size")?);
        let fits = size > 0 && container.checked_add(size).is_some() && guest.checked_add(size).is_some();
        fits.then_some(Range {
            container,
            guest,
            size,
        })
    };
    list.iter().map(|entry| range(entry).ok_or_else(wrong)).collect()
}

/// A mapping that mounts can be given.
pub struct Shift {
    namespace: OwnedFd,
    /// User and group of the container's root, in the guest.
    pub root: (u32, u32),
}

impl Shift {
    /// Makes a user namespace with the mapping, which is how the kernel wants it
    /// described.
    pub fn new(map: &IdMap, children: &Children, deadline: Deadline) -> Result<Self> {
        let root = map.root()?;
        let [users, groups] = map.texts();
        let request = Request::Namespace { users, groups };
        let call = Call {
            children,
            request: &request,
            ends: None,
            deadline,
        };
        let namespace = call.run()?.descriptor;
        let namespace = namespace.ok_or_else(|| {
            runtime("make a user namespace")(io::Error::other("the helper sent no descriptor"))
        })?;
        Ok(Self { namespace, root })
    }

    /// Replaces a mount by the same one with shifted owners.
    pub fn apply(&self, at: &Path) -> Result<()> {
        let act = || format!("shift the owners of {}", at.display());
        let shifted = self.clone_of(at).map_err(|error| storage(act(), error))?;
        umount2(at, MntFlags::MNT_DETACH).map_err(|errno| storage(act(), errno.desc()))?;
        attach(&shifted, at).map_err(|error| storage(act(), error))
    }

    /// Mounts a folder a second time, with shifted owners.
    pub fn bind(&self, folder: &Path, at: &Path) -> Result<()> {
        let act = || format!("shift the owners of {}", folder.display());
        let shifted = self.clone_of(folder).map_err(|error| storage(act(), error))?;
        attach(&shifted, at).map_err(|error| storage(act(), error))
    }

    /// A copy of a mount that is attached nowhere yet: only such a one can be shifted.
    fn clone_of(&self, at: &Path) -> io::Result<OwnedFd> {
        let path = path_bytes(at)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: `path` ends with NUL and lives through the call; the rest are numbers.
        let raw = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        let raw = i32::try_from(Errno::result(raw)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made it; nobody else knows it.
        let tree = unsafe { OwnedFd::from_raw_fd(raw) };
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(self.namespace.as_raw_fd()).map_err(io::Error::other)?,
        };
        // SAFETY: the structure lives through the call and its size is told; the path is a
        // literal that ends with NUL.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        Errno::result(done)?;
        Ok(tree)
    }

    /// Does something as the container's root is to the guest's files, with the
    /// rights of the guest's root: files that come to be belong to the former.
    pub fn as_root<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        let (user, group) = self.root;
        let become_root = move || {
            // Of this thread alone, which ends after it: without the system calls' wrappers.
            // SECBIT_NO_SETUID_FIXUP keeps the capabilities.
            // SAFETY: all three take numbers and touch no memory.
            unsafe {
                Errno::result(libc::prctl(
                    libc::PR_SET_SECUREBITS,
                    libc::SECBIT_NO_SETUID_FIXUP,
                    0,
                    0,
                    0,
                ))?;
                libc::syscall(libc::SYS_setfsgid, group);
                libc::syscall(libc::SYS_setfsuid, user);
            }
            Ok::<_, Errno>(act())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("as-root".to_owned())
                .spawn_scoped(scope, become_root)?;
            let outcome = thread.join().map_err(|_| io::Error::other("a thread failed"))?;
            Ok(outcome?)
        })
    }
}

fn attach(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    let path = path_bytes(at)?;
    // SAFETY: both paths end with NUL and live through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mapping_is_what_the_kernel_reads() {
        let mapping = json!([{ "containerID": 0, "hostID": 1_048_576, "size": 65_536 }]);
        let linux = json!({
            "namespaces": [{ "type": "pid" }, { "type": "user" }], "uidMappings": mapping, "gidMappings": mapping,
        });
        let map = IdMap::of(&linux).unwrap().unwrap();
        assert_eq!(map.root().unwrap(), (1_048_576, 1_048_576));
        assert_eq!(map.texts(), ["0 1048576 65536\n", "0 1048576 65536\n"]);
    }

    #[test]
    fn only_a_namespace_of_its_own_is_mapped() {
        assert_eq!(
            IdMap::of(&json!({ "namespaces": [{ "type": "pid" }] })).unwrap(),
            None
        );
        let joined = json!({ "namespaces": [{ "type": "user", "path": "/proc/7/ns/user" }] });
        assert_eq!(IdMap::of(&joined).unwrap(), None);
    }

    #[test]
    fn mappings_that_make_no_sense_are_refused() {
        let refused = |mapping: Value| {
            let linux =
                json!({ "namespaces": [{ "type": "user" }], "uidMappings": mapping, "gidMappings": mapping });
            IdMap::of(&linux)
                .and_then(|map| map.unwrap().root())
                .unwrap_err()
                .message
        };
        let range = |container: u64, guest: u64, size: u64| json!({ "containerID": container, "hostID": guest, "size": size });
        assert!(refused(json!([])).contains("uidMappings"));
        assert!(refused(json!([range(0, 1000, 0)])).contains("uidMappings"));
        assert!(refused(json!([range(0, 0xffff_ffff, 2)])).contains("uidMappings"));
        assert!(refused(json!([range(0, 1 << 32, 1)])).contains("uidMappings"));
        assert!(refused(json!([range(1, 1000, 5)])).contains("id 0"));
    }
}
