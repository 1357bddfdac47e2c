//! What the VMM is told: `vm.json`.

use std::path::Path;

use serde_json::{Value, json};

use super::{Disk, SandboxSpec, StartError};
use crate::network::takeover::Card;
use crate::parts::Parts;
use crate::template::Template;

/// The guest's address. Each VMM has a socket of its own, so that all guests may have the same.
const GUEST_CID: u32 = 3;
/// Name of the vsock device's socket in the sandbox's folder.
pub(super) const VSOCK: &str = "v.sock";
/// A kernel that panics ends the microVM at once; only what is critical is said on the console.
pub(crate) const BOOT_ARGS: &str =
    "console=ttyS0 quiet loglevel=3 reboot=k panic=-1 8250.nr_uarts=1 random.trust_cpu=on";
/// virtio-mmio devices that a microVM has room for, one interrupt each.
const WINDOWS: usize = 19;
/// Those of [`own_devices`], which all have.
const OWN: usize = 2;
/// As many devices as may join a microVM that has nothing but these: a fork, or one that runs.
pub(crate) const SPARE: usize = WINDOWS - OWN;

/// A microVM that boots, with everything of `spec`, and room for what may join it.
pub(super) fn booted(parts: &Parts, spec: &SandboxSpec, initramfs: &Path) -> Result<Value, StartError> {
    let mut config = json!({
        "boot-source": boot_source(parts, initramfs, BOOT_ARGS)?,
        "machine-config": machine(spec, SPARE.saturating_sub(devices(spec))),
    });
    add(&mut config, own_devices());
    add(&mut config, spec_devices(spec)?);
    Ok(config)
}

/// One that forks are to be made of: with room for what is theirs.
pub(crate) fn template(
    parts: &Parts,
    spec: &SandboxSpec,
    initramfs: &Path,
    boot_args: &str,
) -> Result<Value, StartError> {
    let mut config = json!({
        "boot-source": boot_source(parts, initramfs, boot_args)?,
        "machine-config": machine(spec, SPARE),
    });
    add(&mut config, own_devices());
    Ok(config)
}

/// One that goes on from a template, with everything of `spec`.
pub(super) fn forked(spec: &SandboxSpec, template: &Template) -> Result<Value, StartError> {
    let memory = json!({ "backend_type": "File", "backend_path": text(&template.memory())? });
    let mut source = json!({ "snapshot_path": text(&template.snapshot())?, "mem_backend": memory });
    if let Some(path) = template.working_set() {
        add(&mut source, json!({ "working_set_path": text(&path)? }));
    }
    let mut config = json!({ "snapshot": source });
    add(&mut config, own_devices());
    add(&mut config, spec_devices(spec)?);
    Ok(config)
}

/// How many devices of its own a microVM has.
pub(crate) fn devices(spec: &SandboxSpec) -> usize {
    let cards = spec.network.as_ref().map_or(0, |network| network.cards.len());
    let shares = usize::from(spec.share.is_some());
    spec.disks.len().saturating_add(cards).saturating_add(shares)
}

fn machine(spec: &SandboxSpec, spare: usize) -> Value {
    json!({ "vcpu_count": spec.vcpus, "mem_size_mib": spec.memory_mib, "spare_devices": spare })
}

fn boot_source(parts: &Parts, initramfs: &Path, boot_args: &str) -> Result<Value, StartError> {
    Ok(json!({
        "kernel_image_path": text(&parts.kernel)?,
        "initrd_path": text(initramfs)?,
        "boot_args": boot_args,
    }))
}

/// What the agent is reached by, and random numbers.
fn own_devices() -> Value {
    json!({ "vsock": { "guest_cid": GUEST_CID, "uds_path": VSOCK }, "entropy": {} })
}

fn spec_devices(spec: &SandboxSpec) -> Result<Value, StartError> {
    let drives = spec
        .disks
        .iter()
        .map(|disk| drive(disk).ok_or_else(|| StartError::Path(disk.path.clone())));
    let drives = drives.collect::<Result<Vec<_>, StartError>>()?;
    let folders = spec
        .share
        .iter()
        .map(|share| Ok(json!({ "folder_id": "share", "tag": share.tag, "socket": text(&share.socket)? })));
    let folders = folders.collect::<Result<Vec<_>, StartError>>()?;
    let cards = spec.network.iter().flat_map(|network| &network.cards);
    let cards: Vec<_> = cards.map(card).collect();
    Ok(json!({ "drives": drives, "shared-folders": folders, "network-interfaces": cards }))
}

/// A disk, as the API has it; nothing if its path is not UTF-8.
pub(super) fn drive(disk: &Disk) -> Option<Value> {
    Some(json!({
        "drive_id": disk.serial,
        "path_on_host": disk.path.to_str()?,
        "is_root_device": false,
        "is_read_only": disk.read_only,
    }))
}

/// A network card, as the API has it.
pub(super) fn card(card: &Card) -> Value {
    json!({ "iface_id": card.tap, "host_dev_name": card.tap, "guest_mac": card.mac })
}

/// Adds the members of one object to another.
fn add(config: &mut Value, more: Value) {
    if let (Value::Object(config), Value::Object(more)) = (config, more) {
        config.extend(more);
    }
}

fn text(path: &Path) -> Result<&str, StartError> {
    path.to_str().ok_or_else(|| StartError::Path(path.to_owned()))
}
