//! The bare microVM that starts of containers are compared with: a kernel, and an init that says a line and powers off.

use std::path::{Path, PathBuf};

use super::BenchError;
use super::linux::{copy, given};
use super::measure::{Context, milliseconds};
use super::options::Options;
use super::process::Process;
use super::tree::{self, BARE_LINE};
use super::vmm::{Kind, Machine, Vmm};

/// The kernel command line that Koya gives its guests.
pub const CMDLINE: &str =
    "console=ttyS0 quiet loglevel=3 reboot=k panic=-1 8250.nr_uarts=1 random.trust_cpu=on";

/// See the module.
#[derive(Debug)]
pub struct Bare {
    /// The VMM, in memory.
    pub vmm: Vmm,
    /// The kernel, in memory.
    pub kernel: PathBuf,
    initramfs: PathBuf,
    vcpus: u32,
    memory_mib: u32,
}

/// When a program said its line, and when it had ended, in milliseconds since its start.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The line.
    pub line: f64,
    /// The end.
    pub exit: f64,
}

impl Bare {
    /// Copies VMM and kernel to `folder`, and makes the guest's first file system.
    ///
    /// # Errors
    /// When something is not given, or cannot be copied.
    pub fn prepare(options: &Options, vmm: &Path, folder: &Path) -> Result<Self, BenchError> {
        let kernel = given(&options.kernel, "--kernel", "see resources/kernel/build")?;
        let root = folder.join("bare");
        tree::bare(&root)?;
        let initramfs = tree::initramfs(&root, &folder.join("bare.cpio"))?;
        std::fs::remove_dir_all(&root).map_err(BenchError::path("remove", root))?;
        Ok(Self {
            vmm: Vmm::new(Kind::Koya, &copy(vmm, &folder.join("koya-vmm"))?)?,
            kernel: copy(&kernel, &folder.join("vmlinux"))?,
            initramfs,
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
        })
    }

    /// One from its spawn to its end.
    ///
    /// # Errors
    /// When it does not say its line, or does not end well.
    pub fn times(&self, context: &Context) -> Result<Times, BenchError> {
        let machine = Machine {
            initrd: Some(self.initramfs.clone()),
            cmdline: CMDLINE.to_owned(),
            ..self.machine()
        };
        times(context.start(&self.vmm, &machine)?, BARE_LINE, context)
    }

    /// The machine without what it boots into.
    #[must_use]
    pub fn machine(&self) -> Machine {
        Machine {
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            entropy: true,
            ..Machine::tiny(self.kernel.clone())
        }
    }
}

/// When a program says a line and ends.
///
/// # Errors
/// When it does not, or not well.
pub fn times(mut process: Process, line: &str, context: &Context) -> Result<Times, BenchError> {
    let said = process.line(line, context.limit)?;
    let (code, ended) = process.exit(context.limit)?;
    if code != 0 {
        return Err(process.early_exit("a good end"));
    }
    Ok(Times {
        line: milliseconds(&process, said),
        exit: milliseconds(&process, ended),
    })
}
