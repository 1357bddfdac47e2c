//! A whole microVM: the JSON config file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    BootSource, Drive, DriveConfigError, Entropy, Logger, MachineConfig, MachineConfigError, Metrics,
    NetworkConfigError, NetworkInterface, NotYet, PathError, Serial, SharedFolder, SharedFolderError,
    SnapshotConfigError, SnapshotSource, Vsock, check_file_id,
};
use crate::action::Action;

/// Everything a microVM is configured with. Read from a config file, and the answer to `GET /vm/config`.
///
/// The keys are Firecracker's. Those of parts that Koya does not have yet are accepted while they ask for nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmConfig {
    /// Not supported yet.
    #[serde(default)]
    pub balloon: NotYet,
    /// The drives, in the order in which the guest sees them; a root device comes first.
    #[serde(default)]
    pub drives: Vec<Drive>,
    /// What to boot; required, unless there is a snapshot.
    #[serde(default)]
    pub boot_source: BootSource,
    /// Not supported yet.
    #[serde(default)]
    pub cpu_config: NotYet,
    /// The VMM's log.
    pub logger: Option<Logger>,
    /// vCPUs and memory; without it, the defaults.
    pub machine_config: Option<MachineConfig>,
    /// The VMM's metrics.
    pub metrics: Option<Metrics>,
    /// Not supported yet.
    #[serde(default)]
    pub mmds_config: NotYet,
    /// The network interfaces, in the order in which the guest sees them.
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// The socket device, if there is one.
    pub vsock: Option<Vsock>,
    /// The entropy device, if there is one.
    pub entropy: Option<Entropy>,
    /// Not supported yet.
    #[serde(default, serialize_with = "NotYet::as_list")]
    pub pmem: NotYet,
    /// Not supported yet.
    #[serde(default)]
    pub memory_hotplug: NotYet,
    /// The serial console. Not a key of Firecracker's, which knows it only as `PUT /serial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// The shared folders, in the order in which the guest sees them. Not a key of Firecracker's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_folders: Vec<SharedFolder>,
    /// What to go on from instead of booting; the machine is the snapshot's, and so is every device that the snapshot
    /// knows. Drives, network interfaces and shared folders that it does not know are new devices in places that the
    /// snapshot has to spare. Not a key of Firecracker's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSource>,
}

/// A config file that is well-formed but describes no possible microVM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmConfigError {
    /// Nothing to run.
    #[error("missing field `boot-source`: say what to boot, or in `snapshot` what to go on from")]
    NoBootSource,
    /// Two things to run.
    #[error("`{0}` and `snapshot` exclude each other: a snapshot has its own")]
    SnapshotHasIt(&'static str),
    /// A snapshot that cannot be.
    #[error("snapshot")]
    Snapshot(#[source] SnapshotConfigError),
    /// Wrong vCPUs or memory.
    #[error("machine-config")]
    Machine(#[source] MachineConfigError),
    /// A path that no file can have.
    #[error("{key}")]
    Path {
        /// The key of the config file.
        key: &'static str,
        /// What is wrong with the path.
        #[source]
        source: PathError,
    },
    /// A wrong drive.
    #[error("drives[{index}]")]
    Drive {
        /// Its place, counted from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: DriveConfigError,
    },
    /// A wrong network interface.
    #[error("network-interfaces[{index}]")]
    Network {
        /// Its place, counted from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: NetworkConfigError,
    },
    /// A wrong shared folder.
    #[error("shared-folders[{index}]")]
    SharedFolder {
        /// Its place, counted from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: SharedFolderError,
    },
}

impl VmConfig {
    /// Checks what needs no file system, across all parts.
    ///
    /// # Errors
    /// [`VmConfigError`], naming the first part that is wrong.
    pub fn validate(&self) -> Result<(), VmConfigError> {
        if let Some(machine) = &self.machine_config {
            machine.validate().map_err(VmConfigError::Machine)?;
        }
        let path = |key| move |source| VmConfigError::Path { key, source };
        self.validate_start()?;
        self.logger
            .as_ref()
            .map_or(Ok(()), Logger::validate)
            .map_err(path("logger"))?;
        self.metrics
            .as_ref()
            .map_or(Ok(()), Metrics::validate)
            .map_err(path("metrics"))?;
        self.serial
            .as_ref()
            .map_or(Ok(()), Serial::validate)
            .map_err(path("serial"))?;
        self.vsock
            .as_ref()
            .map_or(Ok(()), Vsock::validate)
            .map_err(path("vsock"))?;
        self.validate_drives()?;
        self.validate_interfaces()?;
        self.validate_folders()
    }

    fn validate_start(&self) -> Result<(), VmConfigError> {
        let boots = self.boot_source != BootSource::default();
        let Some(snapshot) = &self.snapshot else {
            let valid = self.boot_source.validate();
            let valid = valid.map_err(|source| VmConfigError::Path {
                key: "boot-source",
                source,
            });
            return if boots {
                valid
            } else {
                Err(VmConfigError::NoBootSource)
            };
        };
        if boots {
            return Err(VmConfigError::SnapshotHasIt("boot-source"));
        }
        if self.machine_config.is_some() {
            return Err(VmConfigError::SnapshotHasIt("machine-config"));
        }
        snapshot.validate().map_err(VmConfigError::Snapshot)
    }

    fn validate_drives(&self) -> Result<(), VmConfigError> {
        let mut ids = BTreeMap::new();
        let mut root: Option<&str> = None;
        for (index, drive) in self.drives.iter().enumerate() {
            let wrong = |source| VmConfigError::Drive { index, source };
            let id = drive.drive_id.as_str();
            check_file_id(id).map_err(|err| wrong(DriveConfigError::Id(err)))?;
            drive.validate().map_err(wrong)?;
            if ids.insert(id, ()).is_some() {
                return Err(wrong(DriveConfigError::DuplicateId(id.into())));
            }
            if drive.is_root_device
                && let Some(existing) = root.replace(id)
            {
                return Err(wrong(DriveConfigError::SecondRoot {
                    existing: existing.into(),
                    id: id.into(),
                }));
            }
        }
        Ok(())
    }

    fn validate_interfaces(&self) -> Result<(), VmConfigError> {
        let mut ids = BTreeMap::new();
        let mut macs = BTreeMap::new();
        let mut taps = BTreeMap::new();
        for (index, interface) in self.network_interfaces.iter().enumerate() {
            let wrong = |source| VmConfigError::Network { index, source };
            let id = interface.iface_id.as_str();
            check_file_id(id).map_err(|err| wrong(NetworkConfigError::Id(err)))?;
            interface.validate().map_err(wrong)?;
            if ids.insert(id, ()).is_some() {
                return Err(wrong(NetworkConfigError::DuplicateId(id.into())));
            }
            if let Some(mac) = interface.guest_mac
                && let Some(by) = macs.insert(mac.bytes(), id)
            {
                return Err(wrong(NetworkConfigError::MacInUse { mac, by: by.into() }));
            }
            let tap = interface.host_dev_name.as_str();
            // A name with '%' is a pattern: the host makes a new tap of it each time.
            if !tap.contains('%')
                && let Some(first) = taps.insert(tap, id)
            {
                let (first, second, tap) = (first.into(), id.into(), tap.into());
                return Err(wrong(NetworkConfigError::SharedTap { first, second, tap }));
            }
        }
        Ok(())
    }

    fn validate_folders(&self) -> Result<(), VmConfigError> {
        let mut ids = BTreeMap::new();
        let mut tags = BTreeMap::new();
        for (index, folder) in self.shared_folders.iter().enumerate() {
            let wrong = |source| VmConfigError::SharedFolder { index, source };
            let id = folder.folder_id.as_str();
            check_file_id(id).map_err(|err| wrong(SharedFolderError::Id(err)))?;
            folder.validate().map_err(wrong)?;
            if ids.insert(id, ()).is_some() {
                return Err(wrong(SharedFolderError::DuplicateId(id.into())));
            }
            if let Some(first) = tags.insert(folder.tag.as_str(), id) {
                let (first, second, tag) = (first.into(), id.into(), folder.tag.clone());
                return Err(wrong(SharedFolderError::TagInUse { first, second, tag }));
            }
        }
        Ok(())
    }

    /// The actions that configure this microVM through the API, in order; what starts it is not among them.
    ///
    /// The log and the metrics come first, so that what goes wrong afterwards is recorded.
    pub fn into_actions(self) -> Vec<Action> {
        let mut actions = Vec::new();
        actions.extend(self.logger.map(Action::PutLogger));
        actions.extend(self.metrics.map(Action::PutMetrics));
        actions.extend(self.machine_config.map(Action::PutMachineConfig));
        if self.snapshot.is_none() {
            actions.push(Action::PutBootSource(self.boot_source));
        }
        actions.extend(self.drives.into_iter().map(Action::PutDrive));
        actions.extend(
            self.network_interfaces
                .into_iter()
                .map(Action::PutNetworkInterface),
        );
        actions.extend(self.shared_folders.into_iter().map(Action::PutSharedFolder));
        actions.extend(self.entropy.map(Action::PutEntropy));
        actions.extend(self.vsock.map(Action::PutVsock));
        actions.extend(self.serial.map(Action::PutSerial));
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::one_line;
    use crate::json;

    /// Every key Firecracker writes, and what it writes when it is not used.
    const FULL: &str = r#"{
        "boot-source": {"kernel_image_path": "vmlinux", "boot_args": "console=ttyS0", "initrd_path": null},
        "drives": [{"drive_id": "root-fs", "partuuid": null, "is_root_device": true, "cache_type": "Unsafe",
                    "is_read_only": false, "path_on_host": "disk", "io_engine": "Sync", "rate_limiter": null,
                    "socket": null}],
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "smt": false, "track_dirty_pages": false,
                           "huge_pages": "None"},
        "cpu-config": null, "balloon": null, "network-interfaces": [], "vsock": null, "logger": null,
        "metrics": null, "mmds-config": null, "entropy": null, "pmem": [], "memory-hotplug": null
    }"#;

    fn parse(text: &str) -> VmConfig {
        json::from_slice(text.as_bytes()).unwrap()
    }

    fn invalid(drives: &str, nets: &str) -> String {
        let text = format!(
            r#"{{"boot-source":{{"kernel_image_path":"k"}},"drives":[{drives}],"network-interfaces":[{nets}]}}"#
        );
        one_line(&parse(&text).validate().unwrap_err())
    }

    fn drive(id: &str, root: bool) -> String {
        format!(r#"{{"drive_id":"{id}","is_root_device":{root},"path_on_host":"d"}}"#)
    }

    fn net(id: &str, tap: &str, mac: &str) -> String {
        format!(r#"{{"iface_id":"{id}","host_dev_name":"{tap}","guest_mac":{mac}}}"#)
    }

    #[test]
    fn a_full_file_is_read_and_written_back() {
        let config = parse(FULL);
        assert_eq!(config.validate(), Ok(()));
        let written: serde_json::Value = serde_json::to_value(&config).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(FULL).unwrap());
    }

    #[test]
    fn only_the_boot_source_is_required() {
        let config = parse(r#"{"boot-source":{"kernel_image_path":"k"}}"#);
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.into_actions().len(), 1);
        let err = parse("{}").validate().unwrap_err();
        assert!(err.to_string().contains("missing field `boot-source`"), "{err}");
    }

    #[test]
    fn a_snapshot_stands_in_place_of_boot_source_and_machine() {
        const SNAPSHOT: &str =
            r#""snapshot":{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}"#;
        let invalid = |text: String| one_line(&parse(&text).validate().unwrap_err());
        let config = parse(&format!("{{{SNAPSHOT},\"entropy\":{{}}}}"));
        assert_eq!(config.validate(), Ok(()));
        assert!(matches!(
            config.into_actions().as_slice(),
            [Action::PutEntropy(_)]
        ));
        for (key, value) in [
            ("boot-source", r#"{"kernel_image_path":"k"}"#),
            ("machine-config", r#"{"vcpu_count":1,"mem_size_mib":64}"#),
        ] {
            let error = invalid(format!("{{{SNAPSHOT},\"{key}\":{value}}}"));
            assert!(
                error.contains(key) && error.contains("exclude each other"),
                "{error}"
            );
        }
        let error = invalid(format!("{{{}}}", SNAPSHOT.replace("File", "Uffd")));
        assert!(error.starts_with("snapshot: `backend_type` Uffd"), "{error}");
    }

    #[test]
    fn parts_we_lack_are_refused_by_name() {
        for key in ["balloon", "cpu-config", "mmds-config", "pmem", "memory-hotplug"] {
            for value in ["{\"a\":1}", "[1]", "\"x\"", "true", "7"] {
                let text = format!(r#"{{"boot-source":{{"kernel_image_path":"k"}},"{key}":{value}}}"#);
                let err = json::from_slice::<VmConfig>(text.as_bytes())
                    .unwrap_err()
                    .to_string();
                assert!(
                    err.contains("not supported yet") && err.contains(&format!("`{key}")),
                    "{err}"
                );
            }
        }
        let err = json::from_slice::<VmConfig>(br#"{"bot-source":{}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            err.contains("unknown field `bot-source`") && err.contains("`boot-source`"),
            "{err}"
        );
    }

    #[test]
    fn drives_are_checked_together() {
        let (a, b) = (drive("a", true), drive("b", true));
        assert!(
            invalid(&format!("{a},{b}"), "").starts_with("drives[1]: A root block device already exists!")
        );
        assert!(invalid(&format!("{a},{a}"), "").contains("two drives have the id \"a\""));
        assert!(invalid(&drive("a/b", true), "").contains("'/' at position 1"));
        assert!(invalid(&drive(&"x".repeat(300), true), "").contains("1 to 64"));
        assert!(invalid(&drive("", true), "").contains("cannot be empty"));
    }

    #[test]
    fn network_interfaces_are_checked_together() {
        let mac = "\"06:00:00:00:00:01\"";
        let two = |a: String, b: String| invalid("", &format!("{a},{b}"));
        assert!(two(net("a", "t0", "null"), net("a", "t1", "null")).contains("have the id \"a\""));
        assert!(two(net("a", "t0", mac), net("b", "t1", mac)).contains("MAC address is already in use"));
        assert!(two(net("a", "t0", "null"), net("b", "t0", "null")).contains("both use the tap \"t0\""));
    }

    #[test]
    fn shared_folders_are_checked_together() {
        let two = |a: &str, b: &str| {
            let text = format!(r#"{{"boot-source":{{"kernel_image_path":"k"}},"shared-folders":[{a},{b}]}}"#);
            parse(&text).validate().map_err(|error| one_line(&error))
        };
        let folder = |id, tag| format!(r#"{{"folder_id":"{id}","tag":"{tag}","socket":"s"}}"#);
        assert_eq!(two(&folder("a", "x"), &folder("b", "y")), Ok(()));
        for (second, expected) in [
            (
                folder("a", "y"),
                "shared-folders[1]: two shared folders have the id \"a\"",
            ),
            (folder("b", "x"), "both have the tag \"x\""),
            (folder("b", ""), "1 to 36 bytes"),
        ] {
            let error = two(&folder("a", "x"), &second).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn actions_come_with_the_log_first() {
        let text = r#"{"boot-source":{"kernel_image_path":"k"},"logger":{"log_path":"l"},"entropy":{},
                       "serial":{"serial_out_path":"s"},"machine-config":{"vcpu_count":1,"mem_size_mib":64},
                       "vsock":{"guest_cid":3,"uds_path":"v"}}"#;
        let actions = parse(text).into_actions();
        assert!(matches!(
            actions.as_slice(),
            [
                Action::PutLogger(_),
                Action::PutMachineConfig(_),
                Action::PutBootSource(_),
                Action::PutEntropy(_),
                Action::PutVsock(_),
                Action::PutSerial(_)
            ]
        ));
    }
}
