//! How each VMM is started: one description of a machine, one command line for each.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::BenchError;
use super::host::KvmKind;

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Koya,
    /// QEMU with its `microvm` machine.
    Qemu,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// None, but what every one of them must do.
    Floor,
}

/// A VMM to measure.
#[derive(Clone, Debug)]
pub struct Vmm {
    /// Which program it is.
    pub kind: Kind,
    /// The binary.
    pub binary: PathBuf,
    /// Its own line of `--version`.
    pub version: String,
}

/// A machine to start, the same for every VMM.
#[derive(Clone, Debug)]
pub struct Machine {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Raw images, opened read-only; the first one is `/dev/vda`.
    pub disks: Vec<PathBuf>,
    /// A tap device for one network card.
    pub tap: Option<String>,
    /// Whether to have an entropy device.
    pub entropy: bool,
    /// Whether the guest reads ACPI tables; without, QEMU names its devices in the command line.
    pub acpi: bool,
}

impl Machine {
    /// The machine of the start-up figures: 1 vCPU, 128 MiB, no devices but the serial port.
    #[must_use]
    pub fn tiny(kernel: PathBuf) -> Self {
        Self {
            kernel,
            initrd: None,
            cmdline: String::new(),
            vcpus: 1,
            memory_mib: 128,
            disks: Vec::new(),
            tap: None,
            entropy: false,
            acpi: false,
        }
    }
}

impl Kind {
    /// The name for people.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Koya => "Koya",
            Self::Qemu => "QEMU microvm",
            Self::Firecracker => "Firecracker",
            Self::CloudHypervisor => "Cloud Hypervisor",
            Self::Floor => "floor",
        }
    }

    /// Whether its virtio devices are on virtio-mmio, which is all that tiny guests drive.
    #[must_use]
    pub fn has_virtio_mmio(self) -> bool {
        !matches!(self, Self::CloudHypervisor | Self::Floor)
    }

    /// The tiny guest that ends this VMM's process soonest.
    #[must_use]
    pub fn ending_guest(self) -> &'static str {
        if self == Self::CloudHypervisor {
            "poweroff"
        } else {
            "reset"
        }
    }

    /// How to start the machine: the arguments after the program's path. Whatever configuration the VMM
    /// reads from a file is written to `scratch`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn arguments(
        self,
        machine: &Machine,
        kvm: KvmKind,
        scratch: &Path,
    ) -> Result<Vec<OsString>, BenchError> {
        match self {
            Self::Koya | Self::Firecracker => {
                let config = scratch.join("vm.json");
                fs::write(&config, config_file(machine)).map_err(BenchError::path("write", &config))?;
                let mut args: Vec<OsString> = ["--no-api", "--config-file"].map(OsString::from).to_vec();
                args.push(config.into());
                args.extend(quiet_log());
                Ok(args)
            }
            Self::Qemu => Ok(qemu(machine, kvm)),
            Self::CloudHypervisor => Ok(cloud_hypervisor(machine)),
            // It has the guest in itself.
            Self::Floor => Ok(machine
                .kernel
                .file_name()
                .map(OsString::from)
                .into_iter()
                .collect()),
        }
    }

    /// How to start it with nothing but its control socket.
    #[must_use]
    pub fn control_arguments(self, kvm: KvmKind, socket: &Path) -> Vec<OsString> {
        let path = socket.display();
        match self {
            Self::Koya | Self::Firecracker => {
                let mut args = words("--api-sock");
                args.push(socket.into());
                args.extend(quiet_log());
                args
            }
            Self::Qemu => {
                let mut args = qemu_base(kvm, false, 1, 128);
                args.extend(words("-S -qmp"));
                args.push(format!("unix:{path},server=on,wait=off").into());
                args
            }
            Self::Floor => Vec::new(),
            Self::CloudHypervisor => {
                let mut args = words("--api-socket");
                args.push(socket.into());
                args
            }
        }
    }

    /// What to send to the control socket to get an answer; QEMU speaks first.
    #[must_use]
    pub fn greeting(self) -> &'static str {
        match self {
            Self::Koya | Self::Firecracker => "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            Self::Qemu | Self::Floor => "",
            Self::CloudHypervisor => "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
        }
    }

    /// What the answer begins with.
    #[must_use]
    pub fn answer(self) -> &'static str {
        if self == Self::Qemu {
            "{\"QMP\""
        } else {
            "HTTP/1.1 200"
        }
    }
}

impl Vmm {
    /// A VMM whose binary is at `binary`.
    ///
    /// # Errors
    /// When the binary does not answer `--version`.
    pub fn new(kind: Kind, binary: &Path) -> Result<Self, BenchError> {
        let output = Command::new(binary)
            .arg("--version")
            .output()
            .map_err(BenchError::path("run", binary))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // Koya says first with which Firecracker it is compatible.
        let own = text
            .lines()
            .find(|line| kind == Kind::Koya && line.starts_with("Koya"));
        let version = own.or(text.lines().next()).unwrap_or_default().trim();
        if !output.status.success() || version.is_empty() {
            let found = format!("{}: '{version}'", binary.display());
            return Err(BenchError::Output {
                expected: "a version",
                found,
            });
        }
        Ok(Self {
            kind,
            binary: binary.into(),
            version: version.into(),
        })
    }

    /// The whole command: the binary and `arguments`.
    #[must_use]
    pub fn command(&self, arguments: Vec<OsString>) -> Vec<OsString> {
        let mut argv = vec![self.binary.clone().into_os_string()];
        argv.extend(arguments);
        argv
    }
}

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

/// Firecracker writes its log to standard output, where the guest's serial port is too.
fn quiet_log() -> Vec<OsString> {
    words("--log-path /dev/null --level Error")
}

/// The JSON configuration that Koya and Firecracker share.
fn config_file(machine: &Machine) -> String {
    let drives: Vec<_> = (0..)
        .zip(&machine.disks)
        .map(|(index, path): (usize, _)| {
            json!({
                "drive_id": format!("disk{index}"),
                "path_on_host": path,
                "is_root_device": false,
                "is_read_only": true,
            })
        })
        .collect();
    let mut source = json!({ "kernel_image_path": machine.kernel, "boot_args": machine.cmdline });
    if let (Some(object), Some(initrd)) = (source.as_object_mut(), &machine.initrd) {
        object.insert("initrd_path".into(), json!(initrd));
    }
    let mut config = json!({
        "boot-source": source,
        "drives": drives,
        "machine-config": { "vcpu_count": machine.vcpus, "mem_size_mib": machine.memory_mib },
    });
    if let Some(object) = config.as_object_mut() {
        if let Some(tap) = &machine.tap {
            let card = json!([{ "iface_id": "eth0", "host_dev_name": tap }]);
            object.insert("network-interfaces".into(), card);
        }
        if machine.entropy {
            object.insert("entropy".into(), json!({}));
        }
    }
    config.to_string()
}

/// QEMU's smallest machine, with nothing that a microVM does not need.
fn qemu_base(kvm: KvmKind, acpi: bool, vcpus: u32, memory_mib: u32) -> Vec<OsString> {
    let acpi = if acpi { "on" } else { "off" };
    // QEMU 7.2 gives up when page-table virtualisation refuses this register.
    let cpu = if kvm == KvmKind::PageTable {
        "host,-arch-capabilities"
    } else {
        "host"
    };
    words(&format!(
        "-M microvm,x-option-roms=off,pit=off,pic=off,isa-serial=on,rtc=off,auto-kernel-cmdline=on,acpi={acpi} \
         -enable-kvm -cpu {cpu} -smp {vcpus} -m {memory_mib} -nodefaults -no-user-config -nographic -no-reboot \
         -global virtio-mmio.force-legacy=false"
    ))
}

fn qemu(machine: &Machine, kvm: KvmKind) -> Vec<OsString> {
    let mut args = qemu_base(kvm, machine.acpi, machine.vcpus, machine.memory_mib);
    args.extend(words("-serial stdio -kernel"));
    args.push(machine.kernel.clone().into());
    args.extend(["-append".into(), machine.cmdline.clone().into()]);
    if let Some(initrd) = &machine.initrd {
        args.extend(["-initrd".into(), initrd.clone().into()]);
    }
    for (index, path) in machine.disks.iter().enumerate() {
        let path = path.display();
        args.push("-object".into());
        args.push(format!("iothread,id=loop{index}").into());
        args.push("-drive".into());
        args.push(format!("file={path},format=raw,if=none,id=disk{index},read-only=on").into());
        args.push("-device".into());
        args.push(format!("virtio-blk-device,drive=disk{index},iothread=loop{index}").into());
    }
    if let Some(tap) = &machine.tap {
        args.push("-netdev".into());
        args.push(format!("tap,id=net0,ifname={tap},script=no,downscript=no,vhost=off").into());
        args.extend(words("-device virtio-net-device,netdev=net0"));
    }
    if machine.entropy {
        args.extend(words("-device virtio-rng-device"));
    }
    args
}

fn cloud_hypervisor(machine: &Machine) -> Vec<OsString> {
    let mut args = words(&format!(
        "--cpus boot={} --memory size={}M --serial tty --console off --kernel",
        machine.vcpus, machine.memory_mib
    ));
    args.push(machine.kernel.clone().into());
    if !machine.cmdline.is_empty() {
        args.extend(["--cmdline".into(), machine.cmdline.clone().into()]);
    }
    if let Some(initrd) = &machine.initrd {
        args.extend(["--initramfs".into(), initrd.clone().into()]);
    }
    if !machine.disks.is_empty() {
        args.push("--disk".into());
        args.extend(
            machine
                .disks
                .iter()
                .map(|path| format!("path={},readonly=on", path.display()).into()),
        );
    }
    if let Some(tap) = &machine.tap {
        args.extend(["--net".into(), format!("tap={tap}").into()]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            initrd: Some("/initrd".into()),
            cmdline: "n=5".into(),
            disks: vec!["/a".into(), "/b".into()],
            tap: Some("tap0".into()),
            entropy: true,
            ..Machine::tiny("/kernel".into())
        }
    }

    #[test]
    fn the_configuration_file_has_every_part() {
        let config: serde_json::Value = serde_json::from_str(&config_file(&machine())).unwrap();
        assert_eq!(config["boot-source"]["kernel_image_path"], "/kernel");
        assert_eq!(config["boot-source"]["initrd_path"], "/initrd");
        assert_eq!(config["drives"][1]["path_on_host"], "/b");
        assert_eq!(config["network-interfaces"][0]["host_dev_name"], "tap0");
        assert_eq!(config["machine-config"]["mem_size_mib"], 128);
        assert!(config["entropy"].is_object());
    }

    #[test]
    fn qemu_gets_every_device_in_order() {
        let args: Vec<String> = qemu(&machine(), KvmKind::Hardware)
            .iter()
            .map(|arg| arg.to_string_lossy().into())
            .collect();
        let place = |text: &str| args.iter().position(|arg| arg.starts_with(text)).unwrap();
        // The first one is the root disk.
        assert!(place("virtio-blk-device,drive=disk0") < place("virtio-blk-device,drive=disk1"));
        assert!(place("tap,id=net0,ifname=tap0") < place("virtio-rng-device"));
        assert!(args.contains(&"host".to_owned()));
    }

    #[test]
    fn qemu_hides_from_page_table_hosts_what_they_refuse() {
        let args = qemu(&machine(), KvmKind::PageTable);
        assert!(args.contains(&"host,-arch-capabilities".into()));
    }

    #[test]
    fn what_answers_no_version_is_refused() {
        let error = Vmm::new(Kind::Koya, Path::new("/bin/false")).unwrap_err();
        assert!(error.to_string().contains("/bin/false"), "{error}");
    }
}
