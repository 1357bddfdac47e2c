//! What the guest is going to be made of: every file and tap that the configuration names, opened once, when it is
//! named.

mod error;

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use koya_api::config::{
    BootSource, Drive, DriveBackend, Entropy, IoEngine, MachineConfig, NetworkInterface, Serial,
    SharedFolder, VmConfig, Vsock as VsockSection,
};
use koya_boot::Cmdline;
use koya_devices::virtio::block::{BlockBackend, FileBackend, UringBackend};
use koya_devices::virtio::fs::Program;
use koya_devices::virtio::net::Tap;
use koya_devices::virtio::vsock::{Vsock, VsockConfig};

pub use error::ResourceError;

/// The command line of a guest whose configuration has none: Firecracker's, for its clients' guests to find what
/// they know.
pub const DEFAULT_BOOT_ARGS: &str =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";
/// Virtio devices at most: one interrupt pin each.
pub const MAX_DEVICES: usize = koya_boot::layout::VIRTIO_MMIO_SLOTS;

/// An opened boot source.
pub struct OpenBoot {
    /// Its description.
    pub config: BootSource,
    /// The kernel.
    pub kernel: File,
    /// The initrd.
    pub initrd: Option<File>,
    /// The user's part of the command line.
    pub cmdline: Cmdline,
}

/// An opened drive.
pub struct OpenDrive {
    /// Its description.
    pub config: Drive,
    /// Its file.
    pub backend: Box<dyn BlockBackend>,
}

/// An opened network interface.
pub struct OpenNetwork {
    /// Its description.
    pub config: NetworkInterface,
    /// Its tap.
    pub tap: Tap,
}

/// A shared folder whose program is there.
pub struct OpenFolder {
    /// Its description.
    pub config: SharedFolder,
    /// The connected program.
    pub program: Program,
}

/// An opened socket device.
pub struct OpenVsock {
    /// Its description.
    pub config: VsockSection,
    /// It listens already.
    pub device: Vsock,
}

/// Everything that a guest is made of.
#[derive(Default)]
pub struct Resources {
    /// vCPUs and memory.
    pub machine: MachineConfig,
    /// What to boot; needed to start.
    pub boot: Option<OpenBoot>,
    /// In the order in which the guest finds them: the root drive first.
    pub drives: Vec<OpenDrive>,
    /// In the order in which the guest finds them.
    pub networks: Vec<OpenNetwork>,
    /// In the order in which the guest finds them.
    pub shared_folders: Vec<OpenFolder>,
    /// The entropy device.
    pub entropy: Option<Entropy>,
    /// The socket device.
    pub vsock: Option<OpenVsock>,
    /// Where the serial console's output goes, when not to standard output.
    pub serial: Serial,
    /// The opened file of it.
    pub serial_output: Option<File>,
}

impl Resources {
    /// Opens what to boot.
    pub fn set_boot(&mut self, config: BootSource) -> Result<(), ResourceError> {
        config.validate()?;
        let kernel = open_file("kernel", "kernel_image_path", &config.kernel_image_path)?;
        let initrd = config
            .initrd_path
            .as_deref()
            .map(|path| open_file("initrd", "initrd_path", path))
            .transpose()?;
        let args = config.boot_args.as_deref().unwrap_or(DEFAULT_BOOT_ARGS);
        let cmdline = Cmdline::new(args).map_err(ResourceError::Cmdline)?;
        self.boot = Some(OpenBoot {
            config,
            kernel,
            initrd,
            cmdline,
        });
        Ok(())
    }

    /// Opens a drive and adds it, or puts it in the place of the one with the same id.
    pub fn set_drive(&mut self, config: Drive) -> Result<(), ResourceError> {
        let mut configs: Vec<_> = self.drives.iter().map(|drive| drive.config.clone()).collect();
        config.clone().insert_into(&mut configs)?;
        if configs.len() > self.drives.len() {
            self.check_room()?;
        }
        let backend = open_drive(&config)?;
        self.drives
            .retain(|drive| drive.config.drive_id != config.drive_id);
        self.drives.push(OpenDrive { config, backend });
        let place = |drive: &OpenDrive| {
            configs
                .iter()
                .position(|config| config.drive_id == drive.config.drive_id)
        };
        self.drives.sort_by_key(place);
        Ok(())
    }

    /// Opens an interface's tap and adds it, or puts it in the place of the one with the same id.
    pub fn set_network(&mut self, config: NetworkInterface) -> Result<(), ResourceError> {
        let mut configs: Vec<_> = self
            .networks
            .iter()
            .map(|network| network.config.clone())
            .collect();
        config.clone().insert_into(&mut configs)?;
        let position = self
            .networks
            .iter()
            .position(|network| network.config.iface_id == config.iface_id);
        match position.and_then(|position| self.networks.get_mut(position)) {
            // A tap can be opened once only; the one that is open is the one that is asked for.
            Some(known) if known.config.host_dev_name == config.host_dev_name => known.config = config,
            Some(known) => {
                known.tap = open_tap(&config)?;
                known.config = config;
            }
            None => {
                self.check_room()?;
                let tap = open_tap(&config)?;
                self.networks.push(OpenNetwork { config, tap });
            }
        }
        Ok(())
    }

    /// Connects to the program behind a shared folder and adds it, or puts it in the place of the one with the same id.
    pub fn set_shared_folder(&mut self, config: SharedFolder) -> Result<(), ResourceError> {
        config.check_among(self.shared_folders.iter().map(|folder| &folder.config))?;
        let position = self
            .shared_folders
            .iter()
            .position(|folder| folder.config.folder_id == config.folder_id);
        let known = position.and_then(|position| self.shared_folders.get_mut(position));
        match known {
            // A program takes one connection only; the one that is open is the one that is asked for.
            Some(known) if known.config.socket == config.socket => known.config = config,
            Some(known) => {
                known.program = connect(&config)?;
                known.config = config;
            }
            None => {
                self.check_room()?;
                let program = connect(&config)?;
                self.shared_folders.push(OpenFolder { config, program });
            }
        }
        Ok(())
    }

    /// Adds the entropy device.
    pub fn set_entropy(&mut self, config: Entropy) -> Result<(), ResourceError> {
        if self.entropy.is_none() {
            self.check_room()?;
        }
        self.entropy = Some(config);
        Ok(())
    }

    /// Adds the socket device, or replaces it, and listens.
    pub fn set_vsock(&mut self, config: VsockSection) -> Result<(), ResourceError> {
        config.validate()?;
        if self.vsock.is_none() {
            self.check_room()?;
        }
        crate::descriptors::allow_many();
        // The old one's socket may be at the same path.
        self.vsock = None;
        let device = Vsock::new(VsockConfig {
            guest_cid: config.guest_cid,
            uds_path: config.uds_path.clone(),
        })
        .map_err(ResourceError::Vsock)?;
        self.vsock = Some(OpenVsock { config, device });
        Ok(())
    }

    /// Opens the serial console's output file.
    pub fn set_serial(&mut self, config: Serial) -> Result<(), ResourceError> {
        config.validate()?;
        if config.rate_limiter.is_some_and(|bucket| bucket.limits()) {
            return Err(ResourceError::SerialLimit);
        }
        self.serial_output = match &config.serial_out_path {
            Some(path) => {
                let open = crate::sink::open(path);
                Some(open.map_err(|source| ResourceError::SerialOutput {
                    path: path.clone(),
                    source,
                })?)
            }
            None => None,
        };
        self.serial = config;
        Ok(())
    }

    /// What has been said so far.
    pub fn describe(&self) -> VmConfig {
        VmConfig {
            boot_source: self
                .boot
                .as_ref()
                .map(|boot| boot.config.clone())
                .unwrap_or_default(),
            machine_config: Some(self.machine.clone()),
            drives: self.drives.iter().map(|drive| drive.config.clone()).collect(),
            network_interfaces: self
                .networks
                .iter()
                .map(|network| network.config.clone())
                .collect(),
            shared_folders: self
                .shared_folders
                .iter()
                .map(|folder| folder.config.clone())
                .collect(),
            entropy: self.entropy,
            vsock: self.vsock.as_ref().map(|vsock| vsock.config.clone()),
            serial: (self.serial != Serial::default()).then(|| self.serial.clone()),
            ..VmConfig::default()
        }
    }

    /// Whether nothing has been said yet that makes the machine; where its console's output goes does not.
    pub fn is_untouched(&self) -> bool {
        let config = VmConfig {
            serial: None,
            ..self.describe()
        };
        config == Self::default().describe()
    }

    /// Opens everything again that `config` names. What cannot be opened any more is left out: the next start
    /// says so.
    pub fn reopen(config: &VmConfig) -> Self {
        let mut resources = Self {
            machine: config.machine_config.clone().unwrap_or_default(),
            ..Self::default()
        };
        let mut results = vec![resources.set_boot(config.boot_source.clone())];
        results.extend(
            config
                .drives
                .iter()
                .map(|drive| resources.set_drive(drive.clone())),
        );
        results.extend(
            config
                .network_interfaces
                .iter()
                .map(|network| resources.set_network(network.clone())),
        );
        results.extend(
            config
                .shared_folders
                .iter()
                .map(|folder| resources.set_shared_folder(folder.clone())),
        );
        results.extend(config.entropy.map(|entropy| resources.set_entropy(entropy)));
        results.extend(config.vsock.clone().map(|vsock| resources.set_vsock(vsock)));
        results.extend(config.serial.clone().map(|serial| resources.set_serial(serial)));
        for error in results.into_iter().filter_map(Result::err) {
            log::warn!("after a failed start: {}", koya_api::one_line(&error));
        }
        resources
    }

    fn check_room(&self) -> Result<(), ResourceError> {
        let taken = self.drives.len().saturating_add(self.networks.len());
        let taken = taken.saturating_add(self.shared_folders.len());
        let taken = taken.saturating_add(usize::from(self.entropy.is_some()));
        let taken = taken.saturating_add(usize::from(self.vsock.is_some()));
        let taken = taken.saturating_add(usize::from(self.machine.spare_devices));
        if taken < MAX_DEVICES {
            Ok(())
        } else {
            Err(ResourceError::TooManyDevices)
        }
    }
}

/// Opens the file behind a drive.
pub fn open_drive(config: &Drive) -> Result<Box<dyn BlockBackend>, ResourceError> {
    let failed = |source| ResourceError::DriveFile {
        id: config.drive_id.clone(),
        source,
    };
    match config.backend()? {
        DriveBackend::File {
            path,
            read_only,
            engine,
        } => Ok(match engine {
            IoEngine::Sync => Box::new(FileBackend::open(path, read_only).map_err(failed)?),
            IoEngine::Async => Box::new(UringBackend::open(path, read_only).map_err(failed)?),
        }),
        DriveBackend::VhostUser { .. } => Err(ResourceError::VhostUser {
            id: config.drive_id.clone(),
        }),
    }
}

fn connect(config: &SharedFolder) -> Result<Program, ResourceError> {
    Program::connect(&config.socket).map_err(|source| ResourceError::Program {
        id: config.folder_id.clone(),
        source,
    })
}

/// Opens the tap of a network interface.
pub fn open_tap(config: &NetworkInterface) -> Result<Tap, ResourceError> {
    Tap::open(&config.host_dev_name).map_err(|source| ResourceError::Tap {
        id: config.iface_id.clone(),
        source,
    })
}

/// Opens a file to read, and nothing that only looks like one.
pub fn open_file(what: &'static str, field: &'static str, path: &Path) -> Result<File, ResourceError> {
    // Without O_NONBLOCK, opening a named pipe would wait for a writer.
    let open = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let failed = |reason| ResourceError::Open {
        what,
        field,
        path: path.to_owned(),
        reason,
    };
    let file = open.map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    let kind = match kind {
        kind if kind.is_file() => return Ok(file),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        _ => "a device",
    };
    Err(ResourceError::NotAFile {
        what,
        field,
        path: path.to_owned(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(error: &ResourceError) -> String {
        koya_api::one_line(error)
    }

    #[test]
    fn a_missing_kernel_is_named_with_its_field() {
        let config = BootSource {
            kernel_image_path: "/nowhere/vmlinux".into(),
            ..Default::default()
        };
        let text = message(&Resources::default().set_boot(config).unwrap_err());
        assert!(
            text.starts_with("The kernel file cannot be opened: No such file or directory (os error 2)"),
            "{text}"
        );
        assert!(text.contains("kernel_image_path \"/nowhere/vmlinux\""), "{text}");
    }

    #[test]
    fn a_kernel_must_be_a_file() {
        let config = BootSource {
            kernel_image_path: "/dev".into(),
            ..Default::default()
        };
        let text = message(&Resources::default().set_boot(config).unwrap_err());
        assert!(text.contains("is a directory"), "{text}");
        let config = BootSource {
            kernel_image_path: "/dev/null".into(),
            ..Default::default()
        };
        let text = message(&Resources::default().set_boot(config).unwrap_err());
        assert!(text.contains("is a device"), "{text}");
    }

    #[test]
    fn the_command_line_is_checked_when_it_is_given() {
        let config = BootSource {
            kernel_image_path: "/proc/self/exe".into(),
            boot_args: Some("x".repeat(2048)),
            ..Default::default()
        };
        let text = message(&Resources::default().set_boot(config).unwrap_err());
        assert!(text.contains("boot_args") && text.contains("2049"), "{text}");
    }
}
