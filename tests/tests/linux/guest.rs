//! A Linux guest before it is started: which kernel, which devices, and what it is to do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use koya_tests::bench::linux::base64;
use koya_tests::vm::{Scratch, Vm, from_env};
use serde_json::{Map, Value, json};

use crate::running::Running;
use crate::support::{copy, held};

/// What every script begins with: `say NAME VALUE` reports something, `step NAME` reports that it got there and waits
/// for the test to say "go on".
const PRELUDE: &str = r#"say() { name=$1; shift; echo "koya-test: $name=$*"; }
step() { say step "$1"; read -r _; }
"#;
/// The longest script that goes on the kernel command line; others come on a disk.
const INLINE: usize = 700;
/// Only what is critical interrupts what a script prints; a script reads the rest by `dmesg`.
const ARGUMENTS: &str = "console=ttyS0 reboot=k panic=-1 quiet loglevel=2";

/// A kernel that must boot.
#[derive(Clone, Copy)]
pub enum Kernel {
    /// Ours, as an ELF file with a PVH entry.
    Ours,
    /// Ours, as a bzImage.
    OursCompressed,
    /// Debian's cloud kernel, 6.1.
    Cloud,
    /// Debian's generic kernel, 6.12.
    Generic612,
}

impl Kernel {
    fn image(self) -> PathBuf {
        match self {
            Self::Ours => from_env("KOYA_KERNEL"),
            Self::OursCompressed => from_env("KOYA_KERNEL").with_file_name("bzImage"),
            Self::Cloud => from_env("KOYA_STOCK_CLOUD"),
            Self::Generic612 => from_env("KOYA_STOCK_612"),
        }
    }

    /// The initial RAM disk with the drivers that the kernel lacks.
    fn initramfs(self) -> PathBuf {
        from_env(match self {
            Self::Ours | Self::OursCompressed => "KOYA_INITRAMFS",
            Self::Cloud => "KOYA_STOCK_CLOUD_INITRAMFS",
            Self::Generic612 => "KOYA_STOCK_612_INITRAMFS",
        })
    }
}

/// A guest that has not been started.
pub struct Guest {
    /// The folder of its files.
    pub scratch: Scratch,
    sections: Map<String, Value>,
    boot: Value,
    arguments: String,
    drives: Vec<Value>,
    api: bool,
    scripted: bool,
}

impl Guest {
    fn new(kernel: Kernel) -> Self {
        Self {
            scratch: Scratch::new(),
            sections: Map::new(),
            boot: json!({ "kernel_image_path": held(&kernel.image()) }),
            arguments: ARGUMENTS.to_owned(),
            drives: Vec::new(),
            api: false,
            scripted: false,
        }
        .machine(1, 256)
    }

    /// A kernel with the initial RAM disk, and no root disk.
    pub fn initramfs(kernel: Kernel) -> Self {
        let mut guest = Self::new(kernel);
        guest.boot["initrd_path"] = json!(held(&kernel.initramfs()));
        guest
    }

    /// Debian on a root disk that is read-only, under our kernel.
    pub fn debian() -> Self {
        Self::new(Kernel::Ours).root(&held(&from_env("KOYA_DISK")), true)
    }

    /// Debian on a root disk that is read-only, under a kernel that needs the initial RAM disk to find it.
    pub fn debian_behind_initramfs(kernel: Kernel) -> Self {
        Self::initramfs(kernel)
            .root(&held(&from_env("KOYA_DISK")), true)
            .argument("koya.root=/dev/vda")
    }

    /// A disk that boots under our kernel, and can be written.
    pub fn on_disk(disk: &Path) -> Self {
        Self::new(Kernel::Ours).root(disk, false)
    }

    /// A writable copy of the disk that the environment names, in `scratch`.
    pub fn copy_of_disk(scratch: &Scratch, variable: &str) -> PathBuf {
        let disk = scratch.path("root.ext4");
        copy(&held(&from_env(variable)), &disk);
        disk
    }

    fn root(mut self, disk: &Path, read_only: bool) -> Self {
        self.drives.push(json!({
            "drive_id": "root", "path_on_host": disk, "is_root_device": true, "is_read_only": read_only,
        }));
        self
    }

    /// The root is a partition of its disk.
    pub fn root_partition(mut self, partuuid: &str) -> Self {
        self.drives[0]["partuuid"] = json!(partuuid);
        self
    }

    /// vCPUs and memory.
    pub fn machine(self, vcpus: u32, memory_mib: u32) -> Self {
        self.section(
            "machine-config",
            json!({ "vcpu_count": vcpus, "mem_size_mib": memory_mib }),
        )
    }

    /// Adds a section of the config file.
    pub fn section(mut self, name: &str, value: Value) -> Self {
        self.sections.insert(name.to_owned(), value);
        self
    }

    /// Adds a word to the kernel command line.
    pub fn argument(mut self, word: &str) -> Self {
        self.arguments.push(' ');
        self.arguments.push_str(word);
        self
    }

    /// Adds a drive; the guest finds drives in this order.
    pub fn drive(mut self, id: &str, path: &Path, more: Value) -> Self {
        let mut drive = json!({ "drive_id": id, "path_on_host": path, "is_root_device": false });
        drive
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.drives.push(drive);
        self
    }

    /// Opens an API socket.
    pub fn with_api(mut self) -> Self {
        self.api = true;
        self
    }

    /// What the guest does before it powers off. No drive can be added after this.
    pub fn script(mut self, script: &str) -> Self {
        let script = format!("{PRELUDE}{script}\n");
        self.scripted = true;
        if script.len() <= INLINE {
            return self.argument(&format!("koya.run={}", base64(script.as_bytes())));
        }
        // A disk has whole sectors; the shell does not mind empty lines.
        let lines = "\n".repeat(script.len().next_multiple_of(512) - script.len());
        let disk = self.scratch.file("script", script + &lines);
        let device = format!(
            "/dev/vd{}",
            char::from(b'a' + u8::try_from(self.drives.len()).unwrap())
        );
        self.drive("script", &disk, json!({ "is_read_only": true }))
            .argument(&format!("koya.run={}", base64(format!("sh {device}").as_bytes())))
    }

    /// The sections of the config file.
    pub fn config(&self) -> Map<String, Value> {
        let mut boot = self.boot.clone();
        boot["boot_args"] = json!(self.arguments);
        let mut sections = self.sections.clone();
        sections.insert("boot-source".to_owned(), boot);
        sections.insert("drives".to_owned(), json!(self.drives));
        sections
    }

    /// Starts the guest from a config file.
    pub fn start(self) -> Running {
        let config = Value::Object(self.config()).to_string();
        let file = self.scratch.file("vm.json", config);
        let (socket, metrics) = (self.scratch.path("api.sock"), self.scratch.path("metrics"));
        let mut arguments = vec![OsStr::new("--config-file"), file.as_os_str()];
        arguments.extend([OsStr::new("--metrics-path"), metrics.as_os_str()]);
        if self.api {
            arguments.extend([OsStr::new("--api-sock"), socket.as_os_str()]);
        } else {
            arguments.push(OsStr::new("--no-api"));
        }
        let vm = Vm::start(arguments);
        Running::new(vm, self.scratch, socket, metrics, self.scripted)
    }

    /// Starts the guest through the API alone.
    pub fn start_by_api(self) -> Running {
        let (socket, metrics) = (self.scratch.path("api.sock"), self.scratch.path("metrics"));
        let vm = Vm::start([OsStr::new("--api-sock"), socket.as_os_str()]);
        let config = self.config();
        let running = Running::new(vm, self.scratch, socket, metrics.clone(), self.scripted);
        running.put("/metrics", &json!({ "metrics_path": metrics }));
        for (section, value) in &config {
            match value {
                Value::Array(devices) => {
                    for device in devices {
                        let id = ["drive_id", "iface_id", "folder_id"]
                            .iter()
                            .find_map(|field| device.get(field))
                            .unwrap();
                        running.put(&format!("/{section}/{}", id.as_str().unwrap()), device);
                    }
                }
                value => running.put(&format!("/{section}"), value),
            }
        }
        running.put("/actions", &json!({ "action_type": "InstanceStart" }));
        running
    }
}
