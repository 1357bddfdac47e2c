//! /dev/kvm: whether it is there, for this user, and what is behind it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::finding::Finding;
use super::host::Host;

const DEVICE: &str = "kvm device";
const KIND: &str = "kvm kind";

/// What to do about a host on which a kernel cannot run in a guest.
const ELSEWHERE: &str =
    "use a machine with AMD SVM or Intel VMX: bare metal, or a virtual machine with nested virtualisation";

/// A processor's extension for virtual machines.
struct Extension {
    flag: &'static str,
    name: &'static str,
    module: &'static str,
    /// Of the module: whether the processor walks a guest's page tables itself.
    paging: &'static str,
}

const EXTENSIONS: [Extension; 2] = [
    Extension {
        flag: "svm",
        name: "AMD SVM",
        module: "kvm_amd",
        paging: "npt",
    },
    Extension {
        flag: "vmx",
        name: "Intel VMX",
        module: "kvm_intel",
        paging: "ept",
    },
];

/// The flags of the first processor.
fn flags(host: &Host) -> Vec<String> {
    let text = host.read("/proc/cpuinfo").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let flags = lines.find(|(key, _)| key.trim() == "flags");
    flags
        .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

fn extension(flags: &[String]) -> Option<&'static Extension> {
    EXTENSIONS
        .iter()
        .find(|extension| flags.iter().any(|flag| flag == extension.flag))
}

/// Whether /dev/kvm is there and may be opened; `opened` is what came of trying.
pub fn device(host: &Host, opened: io::Result<()>) -> Finding {
    let Err(error) = opened else {
        return Finding::ok(DEVICE, "/dev/kvm can be opened");
    };
    match error.kind() {
        io::ErrorKind::NotFound => Finding::failed(DEVICE, "there is no /dev/kvm", how_to_load(host)),
        io::ErrorKind::PermissionDenied => {
            let (whose, fix) = permission(host);
            Finding::failed(DEVICE, format!("this user may not open /dev/kvm{whose}"), fix)
        }
        _ => Finding::failed(
            DEVICE,
            format!("cannot open /dev/kvm: {error}"),
            how_to_load(host),
        ),
    }
}

fn how_to_load(host: &Host) -> String {
    match extension(&flags(host)) {
        Some(Extension { module, name, .. }) => format!(
            "modprobe {module}; if that says \"not supported\", turn {name} on in the firmware; in a container, hand the \
             device in"
        ),
        None => format!("turn virtualisation on in the firmware, or {ELSEWHERE}"),
    }
}

/// Whose it is, and how to become one of them.
fn permission(host: &Host) -> (String, String) {
    let kept_away = "something else than its mode keeps it away: hand it in (--device /dev/kvm), or look at the device \
                     rules of this container or service";
    let Ok(device) = fs::metadata(host.path("/dev/kvm")) else {
        return (String::new(), kept_away.to_owned());
    };
    let name = group(host, device.gid());
    let whose = format!(
        ": it is of group {name} and has mode {:03o}",
        device.mode() & 0o777
    );
    let fix = if host.is_root() {
        kept_away.to_owned()
    } else if device.gid() == 0 || device.mode() & 0o060 != 0o060 {
        "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm; then join that group".to_owned()
    } else {
        format!("sudo usermod -aG {name} \"$USER\", then log in again")
    };
    (whose, fix)
}

/// The name of a group, or its number.
fn group(host: &Host, id: u32) -> String {
    let groups = host.read("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| id.to_string())
}

/// What is behind /dev/kvm.
pub fn kind(host: &Host) -> Finding {
    if host.has("/sys/module/kvm_pvm") {
        let found = "page tables only (kvm_pvm): the kernel mode of guests is interpreted, so that Linux does not boot";
        return Finding::failed(KIND, found, ELSEWHERE);
    }
    let flags = flags(host);
    let Some(extension) = extension(&flags) else {
        return if host.has("/dev/kvm") {
            let found = "unknown: the processor has neither svm nor vmx, but there is a /dev/kvm";
            Finding::warning(KIND, found, format!("if guests do not boot, {ELSEWHERE}"))
        } else {
            let found = "none: the processor has neither svm nor vmx";
            Finding::failed(KIND, found, how_to_load(host))
        };
    };
    let Extension {
        name, module, paging, ..
    } = extension;
    if !host.has(&format!("/sys/module/{module}")) {
        let found = format!("the processor has {name}, but {module} is not loaded");
        return Finding::failed(KIND, found, how_to_load(host));
    }
    let is_nested = flags.iter().any(|flag| flag == "hypervisor");
    let nested = if is_nested {
        "; nested: this host is a virtual machine itself"
    } else {
        ""
    };
    let found = format!("hardware: {name}, {module}{nested}");
    match host
        .word(&format!("/sys/module/{module}/parameters/{paging}"))
        .as_deref()
    {
        Some("N" | "0") => Finding::warning(
            KIND,
            format!("{found}, without nested paging ({paging}), which is slow"),
            format!("modprobe -r {module} && modprobe {module} {paging}=1, if the processor can do it"),
        ),
        _ => Finding::ok(KIND, found),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    fn cpu(flags: &str) -> Fake {
        let text = format!("processor\t: 0\nvmx flags\t: svm\nflags\t\t: fpu {flags} lm\n\nprocessor\t: 1\n");
        Fake::new().with("/proc/cpuinfo", &text)
    }

    #[test]
    fn hardware_is_told_from_nested_hardware() {
        let amd = cpu("svm").with("/sys/module/kvm_amd/parameters/npt", "Y\n");
        let found = kind(&amd.host());
        assert_eq!(
            (found.status, found.found.as_str()),
            (Status::Ok, "hardware: AMD SVM, kvm_amd")
        );
        let intel = cpu("vmx hypervisor").with("/sys/module/kvm_intel/parameters/ept", "Y\n");
        let found = kind(&intel.host());
        assert_eq!(found.status, Status::Ok);
        assert!(
            found.found.starts_with("hardware: Intel VMX, kvm_intel; nested"),
            "{found:?}"
        );
    }

    #[test]
    fn without_nested_paging_it_is_slow() {
        let host = cpu("svm").with("/sys/module/kvm_amd/parameters/npt", "N\n");
        let found = kind(&host.host());
        assert_eq!(found.status, Status::Warning);
        assert!(found.fix.unwrap().contains("kvm_amd npt=1"));
    }

    #[test]
    fn page_tables_are_not_enough_whatever_the_processor_says() {
        for flags in ["", "svm"] {
            let host = cpu(flags).with("/sys/module/kvm_pvm/parameters/force", "N");
            let found = kind(&host.with("/dev/kvm", "").host());
            assert_eq!(found.status, Status::Failed, "{found:?}");
            assert!(found.found.contains("kvm_pvm"), "{found:?}");
        }
    }

    #[test]
    fn a_processor_without_extension_and_an_unknown_kind() {
        let found = kind(&cpu("").host());
        assert_eq!(found.status, Status::Failed);
        assert!(found.fix.unwrap().contains("firmware"));
        let found = kind(&cpu("").with("/dev/kvm", "").host());
        assert_eq!(found.status, Status::Warning);
        assert!(found.found.starts_with("unknown"), "{found:?}");
    }

    #[test]
    fn a_module_that_is_not_loaded_is_named() {
        let fake = cpu("vmx");
        let host = fake.host();
        for found in [kind(&host), device(&host, host.open("/dev/kvm"))] {
            assert_eq!(found.status, Status::Failed);
            assert!(found.fix.unwrap().starts_with("modprobe kvm_intel"));
        }
    }

    #[test]
    fn who_may_not_open_it_is_told_the_group() {
        let fake = Fake::new()
            .with("/dev/kvm", "")
            .with("/etc/group", "root:x:0:\ninput:x:10:\n");
        let host = fake.host_of_user();
        let path = host.path("/dev/kvm");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(device(&host, Ok(())).status, Status::Ok);

        // Whoever runs this test owns it: the group's name is in the list, or its number is shown.
        let own = fs::metadata(&path).unwrap().gid();
        if chown(&path, None, Some(10)).is_ok() {
            let found = device(&host, denied());
            assert_eq!(found.status, Status::Failed);
            assert!(found.found.contains("group input"), "{found:?}");
            assert!(found.fix.unwrap().contains("usermod -aG input"));
            let found = device(&fake.host(), denied());
            assert!(found.fix.unwrap().contains("--device /dev/kvm"));
        } else {
            let found = device(&host, denied());
            assert!(found.found.contains(&format!("group {own}")), "{found:?}");
        }

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(device(&host, denied()).fix.unwrap().contains("chmod 660"));
    }
}
