//! What the suite is made of: Koya's programs, kernel and settings, and the images, all in memory.
//!
//! ```text
//!  koya/   koya-runtime with its parts beside it: koya-vmm, koya-agent, vmlinux, virtiofsd
//!  bin/    containerd-shim-koya-v2, and links to koya-runtime and crun: engines run these, or what is put in their place
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::bench::BenchError;
use crate::bench::bare::Bare;
use crate::bench::linux::{copy, given};
use crate::bench::options::Options;
use crate::bench::process::{installed, version};
use crate::bench::subject::{Column, Subject};
use crate::bench::tree;

/// Debian's programs that are needed.
const PROGRAMS: [&str; 7] = [
    CRUN,
    "/usr/bin/podman",
    "/usr/bin/containerd",
    "/usr/bin/ctr",
    "/usr/bin/fio",
    "/usr/bin/iperf3",
    "/usr/bin/python3",
];
const CRUN: &str = "/usr/bin/crun";
/// A pod's memory in MiB, which is the default.
pub(super) const POD_MIB: u32 = 2048;

/// See the module.
pub(super) struct Parts {
    /// The bare microVM, of the same VMM and kernel.
    pub bare: Bare,
    /// Where all is.
    pub scratch: PathBuf,
}

impl Parts {
    /// Copies what is given to `scratch`, which is in memory, and makes the rest.
    pub fn prepare(options: &Options, scratch: &Path) -> Result<Self, BenchError> {
        installed(&PROGRAMS)?;
        let vmm = options.koya()?;
        let virtiofsd = given(&options.virtiofsd, "--virtiofsd", "see resources/virtiofsd/build")?;
        let (koya, bin) = (scratch.join("koya"), scratch.join("bin"));
        tree::make_folder(&koya)?;
        tree::make_folder(&bin)?;
        let bare = Bare::prepare(options, &vmm, &koya)?;
        for name in ["koya-agent", "koya-runtime"] {
            copy(&vmm.with_file_name(name), &koya.join(name))?;
        }
        copy(&virtiofsd, &koya.join("virtiofsd"))?;
        let shim = "containerd-shim-koya-v2";
        copy(&vmm.with_file_name(shim), &bin.join(shim))?;
        let parts = Self {
            bare,
            scratch: scratch.to_owned(),
        };
        for subject in super::TURNS {
            let link = parts.runtime(subject);
            symlink(parts.program(subject), &link).map_err(BenchError::path("make", link))?;
        }
        let settings = format!(
            "[container]\nvcpus = {}\nmemory_mib = {}\n[pod]\nvcpus = {}\nmemory_mib = {POD_MIB}\n",
            options.vcpus, options.memory_mib, options.vcpus
        );
        tree::write(&parts.settings(), &settings, 0o644)?;
        Ok(parts)
    }

    /// The columns of the table.
    pub fn columns(&self) -> Result<Vec<Column>, BenchError> {
        let column = |subject, version| Column { subject, version };
        Ok(vec![
            column(Subject::KOYA, version(&self.program(Subject::KOYA))?),
            column(Subject::Crun, version(Path::new(CRUN))?),
            column(Subject::BareVmm, self.bare.vmm.version.clone()),
        ])
    }

    /// What engines run as the runtime.
    pub fn runtime(&self, subject: Subject) -> PathBuf {
        self.bin().join(match subject {
            Subject::Crun => "crun",
            _ => "koya-runtime",
        })
    }

    /// The runtime itself.
    pub fn program(&self, subject: Subject) -> PathBuf {
        match subject {
            Subject::Crun => CRUN.into(),
            _ => self.scratch.join("koya/koya-runtime"),
        }
    }

    /// Puts something in the place of what engines run as the runtime.
    pub fn replace(
        &self,
        subject: Subject,
        put: impl FnOnce(&Path) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let place = self.runtime(subject);
        fs::remove_file(&place).map_err(BenchError::path("remove", &place))?;
        put(&place)
    }

    /// Where programs are that containerd looks for.
    pub fn bin(&self) -> PathBuf {
        self.scratch.join("bin")
    }

    /// The operator's settings of Koya.
    pub fn settings(&self) -> PathBuf {
        self.scratch.join("koya.toml")
    }

    /// Makes a folder of that name for images, anew.
    pub fn image_folder(&self, name: &str) -> Result<PathBuf, BenchError> {
        let folder = self.scratch.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(BenchError::path("remove", &folder))?;
        }
        tree::small(&folder)?;
        Ok(folder)
    }
}
