//! The root file system and mounts: paths of the host become volumes, file systems of the kernel stay what they are.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfs, statfs, statvfs};
use serde_json::{Value, json};

use super::BundleError;
use super::config::{Config, list, wrong};
use super::disks::{Disks, FILE_SYSTEMS};
use super::left_out::COPY_UP;
use super::overlays::Overlay;
use super::places::Place;
use crate::volumes::Volume;

/// File systems that a guest's kernel makes by itself.
const OWN: [&str; 8] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "hugetlbfs",
];
/// hugetlbfs's magic number (statfs(2)).
const HUGE_PAGES: i64 = 0x9584_58f6;
/// Options of any mount, whatever is mounted.
const GENERAL: [&str; 14] = [
    "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "private",
    "rprivate", "slave", "rslave",
];
/// Those by which what the host mounts later below a folder is seen in the container.
const FOLLOWING: [&str; 4] = ["slave", "rslave", "shared", "rshared"];
/// Where memory is shared between the processes of a container.
const SHM: &str = "/dev/shm";

/// The root file system's folder on the host, and whether it refuses writes.
pub(super) fn root(bundle: &Path, config: &Config) -> Result<(PathBuf, bool), BundleError> {
    let root = config.get("root");
    let object = root
        .and_then(Value::as_object)
        .ok_or_else(|| wrong("root", root, "an object"))?;
    let path = object.get("path");
    let text = path.and_then(Value::as_str).filter(|path| !path.is_empty());
    let text = text.ok_or_else(|| wrong("root.path", path, "the root file system's folder"))?;
    let wanted = bundle.join(text);
    let failed = |source| BundleError::Root {
        path: wanted.clone(),
        source,
    };
    let found = fs::canonicalize(&wanted).map_err(failed)?;
    if !found.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let read_only = match object.get("readonly") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(read_only)) => *read_only,
        other => return Err(wrong("root.readonly", other, "true or false")),
    };
    Ok((found, read_only))
}

/// The file of the host that is to be the container's `/etc/resolv.conf`; the last one, if there are several.
pub(super) fn resolv_conf(bundle: &Path, config: &Config) -> Option<PathBuf> {
    let mounts = list(config, "mounts", "mounts").ok()?;
    let text = |mount: &Config, name: &str| mount.get(name).and_then(Value::as_str).map(str::to_owned);
    let ours = mounts.into_iter().rev().find(|mount| {
        let path = text(mount, "destination").unwrap_or_default();
        path.trim_start_matches('/') == "etc/resolv.conf"
    });
    Some(bundle.join(text(ours?, "source")?))
}

/// Where in the guest things are.
#[derive(Clone, Copy)]
pub(super) struct Into<'a> {
    /// The folder of what is served, by numbers.
    pub served: &'a str,
    /// The name of the memory that all containers have in common who share it.
    pub memory: &'a str,
}

/// What mounts need of the host.
#[derive(Default)]
pub(super) struct Served {
    /// What is served, the root first.
    pub volumes: Vec<Volume>,
    /// On what something is mounted.
    pub places: Vec<Place>,
    /// Volumes that are to be mounted first.
    pub overlays: Vec<Overlay>,
    /// Block devices of the host.
    pub disks: Disks,
}

/// Replaces sources on the host by paths of the guest; what has to be served for that.
pub(super) fn translate(
    bundle: &Path,
    root: &Path,
    read_only: bool,
    into: Into<'_>,
    config: &mut Config,
    disks: Disks,
) -> Result<Served, BundleError> {
    let mut all = Served {
        disks,
        ..Served::default()
    };
    all.volumes.push(Volume {
        source: root.to_owned(),
        target: "/".to_owned(),
        read_only,
        named: false,
        follows: false,
        top_only: false,
    });
    let mut mounts = Vec::new();
    for mount in list(config, "mounts", "mounts")? {
        let known = all.volumes.len();
        let mount = one(bundle, mount, into, &mut all)?;
        let served = all.volumes.get(known);
        let path = mount.get("destination").and_then(Value::as_str).unwrap_or("/");
        all.places.push(Place {
            path: path.to_owned(),
            is_file: served.is_some_and(|volume| volume.source.is_file()),
        });
        mounts.push(mount);
    }
    config.insert("mounts".to_owned(), Value::Array(mounts));
    Ok(all)
}

fn one(bundle: &Path, mount: &Config, into: Into<'_>, all: &mut Served) -> Result<Value, BundleError> {
    let text = |name: &str| mount.get(name).and_then(Value::as_str).unwrap_or_default();
    let destination = mount.get("destination");
    let destination = destination
        .and_then(Value::as_str)
        // Relative ones are from times before 1.0, and are read as engines read them.
        .map(|path| format!("/{}", path.trim_start_matches('/')))
        .ok_or_else(|| wrong("mounts[].destination", destination, "an absolute path"))?;
    let options: Vec<&str> = match mount.get("options") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(options)) => options.iter().filter_map(Value::as_str).collect(),
        other => return Err(wrong("mounts[].options", other, "a list of texts")),
    };
    let kind = text("type");
    let binds = options.iter().any(|option| matches!(*option, "bind" | "rbind"));
    if options.contains(&"remount") {
        // Of what is mounted in the guest by then.
        return Ok(json!({ "destination": destination, "type": "none", "options": options }));
    }
    if kind == "overlay" && !binds {
        return overlay(&destination, &options, into, all);
    }
    let source = bundle.join(text("source"));
    if kind != "bind" && !binds {
        return match kind {
            _ if OWN.contains(&kind) => Ok(own(mount, &destination, kind)),
            _ if FILE_SYSTEMS.contains(&kind) => all.disks.mount(kind, &source, &destination, &options),
            _ => Err(BundleError::Unsupported {
                what: format!("the mount at {destination:?} has type {kind:?}"),
                reason: "the guest mounts proc, sysfs, tmpfs, devpts, mqueue, cgroup and hugetlbfs, and ext2 to ext4, erofs and \
                         squashfs from block devices; mount others on the host, and bind the folder",
            }),
        };
    }
    if mount.contains_key("uidMappings") || options.iter().any(|option| option.ends_with("idmap")) {
        return Err(BundleError::Unsupported {
            what: format!("the mount at {destination:?} is idmapped"),
            reason: "owners are not shifted on the way into a guest; change them on the host",
        });
    }
    if destination == SHM {
        return Ok(shared_memory(&source, into.memory, &options));
    }
    let source = served(&source, &destination)?;
    match huge_pages(&source, &destination, &options) {
        Some(own) => Ok(own),
        None => Ok(volume(source, &destination, options, false, into, all)),
    }
}

/// Serves what layers of the host make together.
fn overlay(
    destination: &str,
    options: &[&str],
    into: Into<'_>,
    all: &mut Served,
) -> Result<Value, BundleError> {
    let overlay = Overlay::of(all.volumes.len(), options);
    let overlay = overlay.ok_or_else(|| BundleError::Unsupported {
        what: format!("the overlay at {destination:?} has no layers"),
        reason: "an overlay is made of the folders that its option lowerdir= names",
    })?;
    let refuses_writes = !overlay.is_writable();
    all.overlays.push(overlay);
    let general = options.iter().copied().filter(|option| GENERAL.contains(option));
    // It gets its source when the container has a folder.
    Ok(volume(
        PathBuf::new(),
        destination,
        general.collect(),
        refuses_writes,
        into,
        all,
    ))
}

/// Serves a file or folder of the host; its mount in the guest.
fn volume(
    source: PathBuf,
    destination: &str,
    options: Vec<&str>,
    refuses_writes: bool,
    into: Into<'_>,
    all: &mut Served,
) -> Value {
    let read_only = options
        .iter()
        .rev()
        .find(|option| matches!(**option, "ro" | "rro" | "rw"));
    let read_only = refuses_writes || read_only.is_some_and(|option| *option != "rw");
    // What is mounted later could be written.
    let follows = !read_only && options.iter().any(|option| FOLLOWING.contains(option));
    let number = all.volumes.len();
    all.volumes.push(Volume {
        source,
        target: destination.to_owned(),
        read_only,
        named: false,
        follows,
        top_only: options.contains(&"bind") && !options.contains(&"rbind"),
    });
    // What is below it, the host decides.
    let mut kept: Vec<&str> = options.into_iter().filter(|option| *option != "bind").collect();
    kept.push("rbind");
    kept.dedup();
    json!({
        "destination": destination,
        "type": "bind",
        "source": format!("{}/{number}", into.served),
        "options": kept,
    })
}

/// Huge pages of the host cannot be mapped from a guest, which has its own: as large, and for the same user.
fn huge_pages(source: &Path, destination: &str, options: &[&str]) -> Option<Value> {
    let found = statfs(source).ok().filter(|found| found.f_type == HUGE_PAGES)?;
    let folder = fs::metadata(source).ok()?;
    let mut kept: Vec<String> = options
        .iter()
        .filter(|option| GENERAL.contains(*option))
        .map(|option| (*option).to_owned())
        .collect();
    kept.extend([
        format!("pagesize={}", found.f_bsize),
        format!("mode={:o}", folder.mode() & 0o7777),
        format!("uid={}", folder.uid()),
        format!("gid={}", folder.gid()),
    ]);
    Some(json!({ "destination": destination, "type": "hugetlbfs", "source": "hugetlbfs", "options": kept }))
}

/// What virtio-fs can serve: files and folders.
fn served(source: &Path, destination: &str) -> Result<PathBuf, BundleError> {
    let failed = |source_error| BundleError::MountSource {
        destination: destination.to_owned(),
        path: source.to_owned(),
        source: source_error,
    };
    let found = fs::canonicalize(source).map_err(failed)?;
    let kind = fs::metadata(&found).map_err(failed)?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(found);
    }
    Err(BundleError::Unsupported {
        what: format!("the mount at {destination:?} wants {source:?}"),
        reason: "it is a socket, pipe or device of the host, and only files and folders can be shared with a guest",
    })
}

/// A file system of the guest's kernel.
fn own(mount: &Config, destination: &str, kind: &str) -> Value {
    let mut mount = mount.clone();
    mount.insert("destination".to_owned(), destination.into());
    // cgroup v2 is what the guest has, under the name that everybody uses for both.
    let kind = if kind == "cgroup2" { "cgroup" } else { kind };
    mount.insert("type".to_owned(), kind.into());
    if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
        options.retain(|option| option != COPY_UP);
    }
    Value::Object(mount)
}

/// Memory cannot be shared with the host's processes: the guest has its own, as large as the host's would have been, which
/// those see who share the IPC namespace (see `CreateRequest` of the agent's protocol).
fn shared_memory(source: &Path, name: &str, options: &[&str]) -> Value {
    let size = statvfs(source).ok().and_then(bytes).unwrap_or(64 << 20);
    let mut kept: Vec<String> = options
        .iter()
        .filter(|option| matches!(**option, "nosuid" | "noexec" | "nodev" | "ro" | "rw"))
        .map(|option| (*option).to_owned())
        .collect();
    kept.extend(["mode=1777".to_owned(), format!("size={size}")]);
    json!({ "destination": SHM, "type": "shm", "source": name, "options": kept })
}

/// The size of a file system that somebody made for this; a whole disk, or none, is no answer.
fn bytes(found: StatVfs) -> Option<u64> {
    const MOST: u64 = 1 << 40;
    let bytes = found.f_blocks.checked_mul(found.f_frsize)?;
    (bytes > 0 && bytes < MOST).then_some(bytes)
}
