//! What the suite is made of: programs, kernel, images and disks, all in memory.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::command;
use super::tree::{self, PROGRAMS};
use crate::bench::BenchError;
use crate::bench::bare::{Bare, CMDLINE};
use crate::bench::clocks::booting;
use crate::bench::linux::copy;
use crate::bench::options::Options;
use crate::bench::process::{Process, installed, version};
use crate::bench::subject::{Column, Subject};
use crate::bench::vmm::Machine;

/// See the module.
pub(super) struct Parts {
    /// The bare microVM.
    pub bare: Bare,
    /// The program `koya`.
    koya: PathBuf,
    agent: PathBuf,
    home: PathBuf,
    /// An image with busybox.
    pub image: PathBuf,
    /// An image with the runtimes.
    pub runtimes_image: PathBuf,
    runtimes_disk: PathBuf,
    /// Settings with which each microVM boots.
    booting: PathBuf,
    vcpus: u32,
    memory_mib: u32,
}

impl Parts {
    /// Copies what is given to `scratch`, which is in memory, and makes the rest.
    pub fn prepare(options: &Options, scratch: &Path) -> Result<Self, BenchError> {
        installed(&PROGRAMS)?;
        let vmm = options.koya()?;
        let beside = |name: &str| vmm.with_file_name(name);
        let put = |from: &Path, name: &str| copy(from, &scratch.join(name));
        let (koya, agent) = (
            put(&beside("koya"), "koya")?,
            put(&beside("koya-agent"), "koya-agent")?,
        );
        // koya looks for it beside itself.
        if let Some(netavark) = &options.netavark {
            put(netavark, "netavark")?;
        }
        let folder = |name: &str| scratch.join(name);
        tree::small(&folder("small"))?;
        tree::large(&folder("large"), &agent)?;
        let parts = Self {
            bare: Bare::prepare(options, &vmm, scratch)?,
            koya,
            agent,
            home: folder("home"),
            image: tree::tar(&folder("small"), &folder("busybox.tar"))?,
            runtimes_image: tree::tar(&folder("large"), &folder("runtimes.tar"))?,
            runtimes_disk: tree::disk(&folder("large"), &folder("runtimes.ext4"))?,
            booting: booting(scratch)?,
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
        };
        for name in ["small", "large"] {
            fs::remove_dir_all(folder(name)).map_err(BenchError::path("remove", folder(name)))?;
        }
        Ok(parts)
    }

    /// The columns of the table.
    pub fn columns(&self) -> Result<Vec<Column>, BenchError> {
        let [crun, runc] = PROGRAMS.map(Path::new);
        let column = |subject, version| Column { subject, version };
        Ok(vec![
            column(Subject::KOYA, version(&self.koya)?),
            column(Subject::BareVmm, self.bare.vmm.version.clone()),
            column(Subject::Crun, version(crun)?),
            column(Subject::Runc, version(runc)?),
        ])
    }

    /// The machine with the runtimes; `runs` is for its init.
    pub fn runtimes_machine(&self, runs: usize) -> Machine {
        Machine {
            cmdline: format!("{CMDLINE} root=/dev/vda rw init=/init runs={runs}"),
            disks: vec![self.runtimes_disk.clone()],
            ..self.bare.machine()
        }
    }

    /// `koya run` with these options, an image, and these words.
    pub fn run_words<'a>(&self, options: &[&'a str], image: &'a str, words: &[&'a str]) -> Vec<String> {
        let size = [
            format!("--vcpus={}", self.vcpus),
            format!("--vm-memory={}m", self.memory_mib),
        ];
        let given = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        [
            given(&["run"]),
            size.to_vec(),
            given(options),
            given(&[image]),
            given(words),
        ]
        .concat()
    }

    /// Starts `koya` with these words.
    pub fn spawn<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
        errors: &Path,
    ) -> Result<Process, BenchError> {
        Process::spawn_with(&command(&self.koya, words), &self.environment(), errors)
    }

    /// The same, with microVMs that boot, whatever templates there are.
    pub fn spawn_booting<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
        errors: &Path,
    ) -> Result<Process, BenchError> {
        let mut environment = self.environment();
        let mut settings = OsString::from("KOYA_CONFIG=");
        settings.push(&self.booting);
        environment.push(settings);
        Process::spawn_with(&command(&self.koya, words), &environment, errors)
    }

    /// Whether any process of `koya` runs, a monitor included.
    pub fn koya_runs(&self) -> bool {
        let Ok(processes) = fs::read_dir("/proc") else {
            return false;
        };
        processes
            .flatten()
            .any(|process| fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == self.koya))
    }

    fn environment(&self) -> Vec<OsString> {
        let pairs = [
            ("KOYA_HOME=", self.home.as_path()),
            ("KOYA_VMM=", &self.bare.vmm.binary),
            ("KOYA_AGENT=", &self.agent),
            ("KOYA_KERNEL=", &self.bare.kernel),
        ];
        let joined = pairs.map(|(name, path)| {
            let mut variable = OsString::from(name);
            variable.push(path);
            variable
        });
        joined.to_vec()
    }

    /// `koya` with these words, for whoever wants its input and output.
    pub fn koya<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut koya = Command::new(&self.koya);
        koya.env("KOYA_HOME", &self.home)
            .env("KOYA_VMM", &self.bare.vmm.binary)
            .env("KOYA_AGENT", &self.agent)
            .env("KOYA_KERNEL", &self.bare.kernel)
            .args(words)
            .stdin(Stdio::null());
        koya
    }

    /// What `koya` says, which has to end well.
    pub fn says<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String, BenchError> {
        let output = self
            .koya(words)
            .output()
            .map_err(BenchError::path("run", &self.koya))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(BenchError::EarlyExit {
            awaited: "koya's good end".into(),
            code: output.status.code().unwrap_or(-1),
            last_words: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// What `koya inspect` knows of a container under a name, as `.Vm.Pid`.
    pub fn field(&self, container: &str, name: &str) -> Result<String, BenchError> {
        let template = format!("{{{{{name}}}}}");
        self.says(["inspect", "--format", &template, container])
    }

    /// The socket of the vsock device of a microVM.
    pub fn vsock(&self, vm: &str) -> PathBuf {
        self.home.join("vms").join(vm).join("v.sock")
    }
}
