//! podman, with storage and a network of this run's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::parts::Parts;
use crate::bench::BenchError;
use crate::bench::measure::Context;
use crate::bench::process::Process;
use crate::bench::subject::Subject;
use crate::bench::tree;

const PODMAN: &str = "/usr/bin/podman";
/// An image with busybox.
pub(super) const IMAGE: &str = "busybox";
/// One with fio, iperf3 and this program beside.
pub(super) const TOOLS: &str = "tools";
/// Where this program is in it.
pub(super) const BENCH: &str = "/bin/koya-bench";
/// The network of its bridge, and the host in it.
const SUBNET: &str = "10.88.0.0/16";
pub(super) const GATEWAY: &str = "10.88.0.1";

/// See the module.
pub(super) struct Podman<'a> {
    parts: &'a Parts,
    home: PathBuf,
}

impl<'a> Podman<'a> {
    /// One with a small image.
    pub fn new(parts: &'a Parts) -> Result<Self, BenchError> {
        let home = parts.scratch.join("podman");
        let net = home.join("net");
        tree::make_folder(&net)?;
        let settings = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = {net:?}\ndefault_subnet = {SUBNET:?}\n\
             [containers]\nlog_driver = \"k8s-file\"\n"
        );
        tree::write(&home.join("containers.conf"), &settings, 0o644)?;
        let podman = Self { parts, home };
        podman.import(&parts.image_folder(IMAGE)?, IMAGE)?;
        Ok(podman)
    }

    /// Makes the image with the tools, if there is none yet: fio is linked with a lot.
    pub fn with_tools(&self) -> Result<(), BenchError> {
        if self.says(Subject::Crun, ["image", "exists", TOOLS]).is_ok() {
            return Ok(());
        }
        let folder = self.parts.image_folder(TOOLS)?;
        for program in ["/usr/bin/fio", "/usr/bin/iperf3"] {
            tree::with_libraries(&folder, program)?;
        }
        tree::own(&folder.join(BENCH.trim_start_matches('/')))?;
        self.import(&folder, TOOLS)
    }

    /// Imports a folder as an image, and removes it.
    fn import(&self, folder: &Path, name: &str) -> Result<(), BenchError> {
        let tar = tree::tar(folder, &self.home.join("image.tar"))?;
        std::fs::remove_dir_all(folder).map_err(BenchError::path("remove", folder))?;
        let path = tar.to_string_lossy().into_owned();
        self.says(Subject::Crun, ["import", "--quiet", &path, name])?;
        std::fs::remove_file(&tar).map_err(BenchError::path("remove", tar))
    }

    /// A process of podman with the runtime of `subject`.
    pub fn spawn<'w>(
        &self,
        subject: Subject,
        words: impl IntoIterator<Item = &'w str>,
        context: &Context,
    ) -> Result<Process, BenchError> {
        let argv: Vec<OsString> = std::iter::once(PODMAN.into())
            .chain(self.arguments(subject))
            .chain(words.into_iter().map(OsString::from))
            .collect();
        let variables = self.variables().map(|(name, value)| {
            let mut variable = OsString::from(name);
            variable.push("=");
            variable.push(value);
            variable
        });
        Process::spawn_with(&argv, &variables, &context.errors())
    }

    /// What podman says, which has to end well.
    pub fn says<'w>(
        &self,
        subject: Subject,
        words: impl IntoIterator<Item = &'w str>,
    ) -> Result<String, BenchError> {
        let mut podman = Command::new(PODMAN);
        podman
            .args(self.arguments(subject))
            .args(words)
            .envs(self.variables())
            .stdin(Stdio::null());
        tree::run(&mut podman)
    }

    /// Removes all containers of `subject`: those of samples that failed may still be at work.
    pub fn clear(&self, subject: Subject) {
        // Of one that never was, nothing is left.
        let _ = self.says(subject, ["rm", "--all", "--force", "--time", "0"]);
    }

    fn arguments(&self, subject: Subject) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for (option, folder) in [
            ("--root", "store"),
            ("--runroot", "runroot"),
            ("--tmpdir", "tmpdir"),
        ] {
            arguments.extend([option.into(), self.home.join(folder).into_os_string()]);
        }
        arguments.extend(["--storage-driver", "overlay", "--runtime"].map(OsString::from));
        arguments.push(self.parts.runtime(subject).into());
        arguments
    }

    fn variables(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("CONTAINERS_CONF", self.home.join("containers.conf")),
            ("KOYA_CONFIG", self.parts.settings()),
            // Where images are unpacked.
            ("TMPDIR", self.home.clone()),
        ]
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        for subject in super::TURNS {
            self.clear(subject);
        }
    }
}
