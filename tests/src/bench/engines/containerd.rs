//! A containerd of this run's own, with the CRI plugin, and `ctr`.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::archive;
use super::cgroup::Cgroup;
use super::parts::Parts;
use crate::bench::BenchError;
use crate::bench::measure::Context;
use crate::bench::process::{Process, command};
use crate::bench::subject::Subject;
use crate::bench::tree;

const CTR: &str = "/usr/bin/ctr";
/// The images, and the first container of each pod.
pub(super) const IMAGE: &str = "docker.io/library/busybox:1";
pub(super) const PAUSE: &str = "localhost/pause:1";
/// `ctr`'s namespace, which is also the name of the cgroup for all that is measured.
const NAMESPACE: &str = "koya-bench";
/// The CRI plugin's.
const CRI_NAMESPACE: &str = "k8s.io";
const SUBNET: &str = "10.89.0.0/16";
/// Between two looks whether it answers.
const LOOK: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Containerd<'a> {
    parts: &'a Parts,
    daemon: Child,
    home: PathBuf,
    /// Its cgroup, with all that it starts.
    pub cgroup: Cgroup,
}

impl<'a> Containerd<'a> {
    /// Starts one and gives it its images.
    pub fn new(parts: &'a Parts, context: &Context) -> Result<Self, BenchError> {
        let home = parts.scratch.join("containerd");
        tree::make_folder(&home.join("net.d"))?;
        tree::write(
            &home.join("net.d/10-bench.conflist"),
            &network(&home.join("addresses")),
            0o644,
        )?;
        tree::write(&home.join("config.toml"), &settings(&home), 0o644)?;
        let cgroup = Cgroup::new(NAMESPACE)?;
        let daemon = launch(parts, &home)?;
        let engine = Self {
            parts,
            daemon,
            home,
            cgroup,
        };
        // Before it starts anything.
        engine.cgroup.place("engine", engine.daemon.id())?;
        engine.await_daemon(context.limit)?;
        for (namespace, name, words) in [
            (NAMESPACE, IMAGE, &["sh"][..]),
            (CRI_NAMESPACE, IMAGE, &["sh"]),
            (CRI_NAMESPACE, PAUSE, &["sleep", "1000000"]),
        ] {
            let folder = parts.image_folder("layer")?;
            let image = archive::pack(&folder, name, words, &engine.home.join("image.tar"))?;
            engine.ctr(namespace, &["image", "import", &image.to_string_lossy()])?;
        }
        Ok(engine)
    }

    /// A process of `ctr run` of `true`.
    pub fn run(&self, subject: Subject, id: &str, context: &Context) -> Result<Process, BenchError> {
        let socket = self.socket().to_string_lossy().into_owned();
        let crun = self.parts.runtime(Subject::Crun).to_string_lossy().into_owned();
        let runtime = match subject {
            Subject::Crun => vec!["--runtime", "io.containerd.runc.v2", "--runc-binary", &crun],
            _ => vec!["--runtime", "io.containerd.koya.v2"],
        };
        let words = ["--address", &socket, "--namespace", NAMESPACE, "run", "--rm"];
        let words = [&words[..], &runtime, &[IMAGE, id, "true"]].concat();
        Process::spawn(&command(CTR.as_ref(), words), &context.errors())
    }

    /// Removes what a failed `ctr run` may have left.
    pub fn forget(&self, id: &str) {
        for words in [
            &["tasks", "delete", "--force", id][..],
            &["containers", "delete", id],
            &["snapshots", "delete", id],
        ] {
            // Mostly there is nothing of it.
            let _ = self.ctr(NAMESPACE, words);
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.home.join("sock")
    }

    fn ctr(&self, namespace: &str, words: &[&str]) -> Result<String, BenchError> {
        let mut ctr = Command::new(CTR);
        ctr.arg("--address").arg(self.socket());
        tree::run(
            ctr.args(["--namespace", namespace])
                .args(words)
                .stdin(Stdio::null()),
        )
    }

    fn await_daemon(&self, limit: Duration) -> Result<(), BenchError> {
        let begun = Instant::now();
        while let Err(error) = self.ctr(NAMESPACE, &["version"]) {
            if begun.elapsed() >= limit {
                return Err(error);
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // It has nothing that outlives this run.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn launch(parts: &Parts, home: &std::path::Path) -> Result<Child, BenchError> {
    let path = home.join("log");
    let log = File::create(&path).map_err(BenchError::path("make", &path))?;
    let errors = log.try_clone().map_err(BenchError::path("write", &path))?;
    let search = std::env::var("PATH").unwrap_or_default();
    let mut containerd = Command::new("/usr/bin/containerd");
    containerd
        .arg("--config")
        .arg(home.join("config.toml"))
        .env("KOYA_CONFIG", parts.settings())
        .env("PATH", format!("{}:{search}", parts.bin().display()))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    containerd.spawn().map_err(BenchError::path("run", "containerd"))
}

/// The configuration, with a runtime handler for each of those who take turns.
fn settings(home: &std::path::Path) -> String {
    let folder = |name: &str| home.join(name).display().to_string();
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
         {cri}]\nsandbox_image = {PAUSE:?}\ndisable_apparmor = true\n\
         {cri}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n\
         {cri}.containerd]\ndefault_runtime_name = \"koya\"\n\
         {cri}.containerd.runtimes.crun]\nruntime_type = \"io.containerd.runc.v2\"\n\
         {cri}.containerd.runtimes.crun.options]\nBinaryName = \"/usr/bin/crun\"\n\
         {cri}.containerd.runtimes.koya]\nruntime_type = \"io.containerd.koya.v2\"\n",
        folder("root"),
        folder("state"),
        folder("sock"),
        folder("net.d"),
    )
}

/// The pods' network.
fn network(addresses: &std::path::Path) -> String {
    let bridge = json!({
        "type": "bridge", "bridge": "koya-bench0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": addresses, "ranges": [[{ "subnet": SUBNET }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    json!({ "cniVersion": "0.4.0", "name": "koya-bench", "plugins": [bridge] }).to_string()
}
