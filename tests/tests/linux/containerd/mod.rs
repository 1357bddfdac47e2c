//! containerd with `containerd-shim-koya-v2` beside the shim for runc: the same command lines of `ctr`, the same output, the
//! same exit codes.

mod around;
mod codes;
mod crash;
mod life;
mod pool;
mod run;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{Scratch, from_env};
use serde_json::json;

use crate::support::{
    PATIENCE, Said, fed, install_runtime, isolate, kill, pids_of, sha256_of, succeed, until,
};

/// The image that every test uses.
const IMAGE: &str = "docker.io/library/busybox:1";
/// The runtimes to compare.
const RUNC: &str = "io.containerd.runc.v2";
const KOYA: &str = "io.containerd.koya.v2";

/// A containerd with folders, a namespace and an image of its own.
pub struct Containerd {
    home: Scratch,
    daemon: Child,
    namespace: String,
}

#[test]
fn ctr_runs_containers_in_microvms_as_it_does_with_runc() {
    let pool = pool::Pool::new();
    let engine = Containerd::new(&pool.settings());
    run::a_container_says_and_ends_what_it_does_with_runc(&engine);
    run::a_terminal_has_the_size_of_the_users(&engine);
    run::what_cannot_be_run_is_told(&engine);
    run::roots_of_other_snapshotters_are_roots(&engine);
    engine.ends();
}

#[test]
fn a_task_outlives_containerd_and_not_its_shim() {
    let mut engine = Containerd::new("");
    life::a_task_is_looked_after(&engine);
    // The same task.
    life::a_task_goes_on_without_containerd(&mut engine);
    life::output_that_nobody_reads_keeps_nobody_waiting(&engine);
    life::a_pods_shim_that_is_killed_leaves_nothing(&engine);
    engine.ends();
}

#[test]
fn whatever_is_killed_under_load_containerd_sees_the_task_dead() {
    let engine = Containerd::new("");
    crash::whatever_is_killed_the_task_is_dead(&engine);
    engine.ends();
}

#[test]
fn a_task_is_counted_logged_and_sized_as_the_operator_wants() {
    let engine = Containerd::new("");
    around::what_the_operator_does_not_allow_is_refused(&engine);
    around::a_logger_takes_the_output_and_a_want_of_memory_is_told(&engine);
    engine.ends();
}

impl Containerd {
    /// With more settings than its own.
    fn new(more: &str) -> Self {
        // Other tests and other people do not have this one.
        let namespace = format!("koya-tests-{}", std::process::id());
        let without = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]";
        let engine = Self::with(without, more, namespace);
        engine.import(IMAGE, "sh");
        engine
    }

    /// With the plugin that Kubernetes asks, its settings, and the namespace where that keeps what it has.
    pub fn with_cri(settings: &str, namespace: &str) -> Self {
        Self::with("", settings, namespace.to_owned())
    }

    fn with(first: &str, last: &str, namespace: String) -> Self {
        isolate();
        let home = Scratch::new();
        fs::create_dir(home.path("bin")).unwrap();
        install_runtime(&home.path("bin"));
        fs::copy(from_env("KOYA_SHIM"), home.path("bin/containerd-shim-koya-v2")).unwrap();
        let folder = |name: &str| home.path(name).display().to_string();
        let settings = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{first}\n[grpc]\naddress = {:?}\n{last}",
            folder("root"),
            folder("state"),
            folder("sock"),
        );
        home.file("config.toml", settings);
        home.file("koya.toml", "");
        let daemon = launch(&home);
        let mut engine = Self {
            home,
            daemon,
            namespace,
        };
        engine.await_daemon();
        engine
    }

    /// A folder of this test's.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.home.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.home.path("sock")
    }

    /// Imports busybox under a name, with the command that it runs by itself.
    pub fn import(&self, name: &str, command: &str) {
        let image = self.image(name, command);
        self.done(&["image", "import", image.to_str().unwrap()]);
        fs::remove_dir_all(self.home.path("parts")).unwrap();
    }

    /// Busybox as an archive that containerd takes.
    fn image(&self, name: &str, command: &str) -> PathBuf {
        let (root, parts) = (self.home.path("busybox"), self.home.path("parts"));
        for folder in ["bin", "etc", "tmp"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::create_dir(&parts).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let applets = "sh cat echo id sleep hostname stty touch grep seq sha256sum kill ps httpd wget tr dd ip ls stat tar";
        for applet in applets
            .split(' ')
            .filter(|applet| !root.join("bin").join(applet).is_symlink())
        {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let tar = |folder: &Path, file: &Path| {
            succeed(
                Command::new("tar")
                    .arg("-C")
                    .arg(folder)
                    .arg("-cf")
                    .arg(file)
                    .arg("."),
            );
        };
        let layer = parts.join("layer.tar");
        tar(&root, &layer);
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": ["PATH=/bin", "A=1"], "Cmd": command.split(' ').collect::<Vec<_>>() },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256_of(&layer))] },
        });
        fs::write(parts.join("config.json"), config.to_string()).unwrap();
        let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
        fs::write(parts.join("manifest.json"), manifest.to_string()).unwrap();
        let image = self.home.path("image.tar");
        tar(&parts, &image);
        image
    }

    fn await_daemon(&mut self) {
        let start = Instant::now();
        while self.said(&["version"]).code != Some(0) {
            // Its log is shown as it is dropped.
            if let Some(status) = self.daemon.try_wait().unwrap() {
                panic!("containerd has ended: {status}");
            }
            assert!(start.elapsed() < PATIENCE, "containerd does not come up");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Kills it with the signal that nobody can do anything about, and starts another one.
    pub fn restart(&mut self) {
        self.stop();
        self.begin();
    }

    /// Has it end as it wants to, and starts another one.
    pub fn restart_politely(&mut self) {
        kill(self.daemon.id(), libc::SIGTERM);
        let _ = self.daemon.wait();
        self.begin();
    }

    fn begin(&mut self) {
        self.daemon = launch(&self.home);
        self.await_daemon();
    }

    fn stop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }

    /// `ctr`.
    fn ctr(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.home.path("sock"))
            .args(["--namespace", &self.namespace])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// What a command line says, to its end.
    fn said(&self, words: &[&str]) -> Said {
        // A task that goes on has the streams: files have no end to wait for.
        let (out, errors) = (self.home.path("out"), self.home.path("errors"));
        let file = |path: &Path| Stdio::from(fs::File::create(path).unwrap());
        let mut command = self.ctr(words);
        let status = command.stdout(file(&out)).stderr(file(&errors)).status().unwrap();
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Said {
            out: text(&out),
            errors: text(&errors),
            code: status.code(),
        }
    }

    /// What one says on a terminal of 33 rows and 77 columns.
    fn on_a_terminal(&self, words: &[&str]) -> Said {
        let mut line = String::from("stty rows 33 cols 77;");
        let ctr = self.ctr(words);
        for word in std::iter::once(ctr.get_program()).chain(ctr.get_args()) {
            line.push_str(&format!(" '{}'", word.to_str().unwrap()));
        }
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        fed(&mut command, b"")
    }

    /// What one says that has to succeed.
    fn done(&self, words: &[&str]) -> String {
        let said = self.said(words);
        assert_eq!(said.code, Some(0), "ctr {}: {}", words.join(" "), said.errors);
        said.out
    }

    /// Where the runtime's states are.
    fn states(&self) -> PathBuf {
        Path::new("/run/containerd/koya").join(&self.namespace)
    }

    /// What is left of any microVM, shim or mount.
    fn left(&self) -> Vec<String> {
        let names = ["koya-vmm", "koya-monitor", "koya-container", "virtiofsd"];
        let processes = names
            .into_iter()
            .filter(|name| !pids_of(name).is_empty())
            .map(str::to_owned);
        let states = fs::read_dir(self.states()).into_iter().flatten().flatten();
        let states = states.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let home = self.home.path("").display().to_string();
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(&home))
            .map(str::to_owned);
        processes
            .chain(states.filter(|name| !name.starts_with('.')))
            .chain(mounts)
            .chain(self.shims().into_iter().map(|pid| format!("shim {pid}")))
            .collect()
    }

    /// Waits until there is nothing.
    pub fn is_clean(&self, what: &str) {
        let start = Instant::now();
        while !self.left().is_empty() {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.left());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its shims for Koya.
    pub fn shims(&self) -> Vec<u32> {
        shims_of(&self.namespace)
    }

    pub fn ends(mut self) {
        self.is_clean("something is left of the containers");
        assert_eq!(self.done(&["containers", "ls", "--quiet"]), "");
        self.stop();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("containerd:\n{}", self.log());
        }
        self.stop();
        for pid in shims_of(&self.namespace) {
            kill(pid, libc::SIGKILL);
        }
    }
}

/// Starts containerd, in this thread's network and mounts.
fn launch(home: &Scratch) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(home.path("log"))
        .unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("containerd")
        .arg("--config")
        .arg(home.path("config.toml"))
        .env("KOYA_CONFIG", home.path("koya.toml"))
        // It may not wait for udev, which an emulated host does not have.
        .env("DM_DISABLE_UDEV", "1")
        .env("PATH", format!("{}:{path}", home.path("bin").display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The shims for Koya of a namespace.
fn shims_of(namespace: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("containerd-shim-koya-v2\0") && line.contains(&format!("\0{namespace}\0"))
    };
    pids.filter(is_one).collect()
}
