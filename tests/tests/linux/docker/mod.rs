//! docker's engine with `koya-runtime` as a runtime of its own, through containerd's shim for runc: the same command lines
//! with runc and with Koya, the same output, the same exit codes.
//!
//! The engine is Debian's, and starts slowly where KVM is emulated: one of them serves all command lines.

mod crash;
mod life;
mod networks;
mod run;
mod terminal;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::Scratch;
use serde_json::json;

use crate::support::{PATIENCE, Said, install_runtime, pids_of, until};

/// How long the engine may take to end.
const FAREWELL: Duration = Duration::from_secs(30);
/// Debian's client: a machine may have a newer one as well, which does not speak to its engine.
const CLIENT: &str = "/usr/bin/docker";
/// The image that the tests build and use.
const IMAGE: &str = "busybox";
/// The runtimes to compare. Containers are named after them.
const BOTH: [&str; 2] = ["runc", "koya"];

/// An engine with a network, storage and mounts of its own.
struct Docker {
    home: Scratch,
    engine: Child,
}

#[test]
fn docker_runs_containers_in_microvms_as_it_does_with_runc() {
    let engine = Docker::new();
    run::images_are_built_by_commands_in_microvms(&engine);
    run::a_container_says_and_ends_what_it_does_with_runc(&engine);
    run::what_a_microvm_cannot_have_is_told(&engine);
    run::a_privileged_container_has_none_of_the_hosts_devices(&engine);
    life::a_container_lives_as_with_runc(&engine);
    life::a_microvm_that_is_killed_is_a_dead_container(&engine);
    terminal::at_a_terminal_a_container_is_as_with_runc(&engine);
    crash::whatever_is_killed_under_load_the_engine_sees_the_container_dead(&engine);
    engine.ends();
}

#[test]
fn containers_of_networks_and_applications_find_each_other() {
    let engine = Docker::new();
    run::images_are_built_by_commands_in_microvms(&engine);
    networks::containers_find_each_other_by_name(&engine);
    networks::a_container_that_runs_joins_a_network_and_leaves_it(&engine);
    networks::an_application_of_several_containers_runs(&engine);
    engine.ends();
}

impl Docker {
    fn new() -> Self {
        let home = Scratch::new();
        fs::create_dir(home.path("bin")).unwrap();
        let runtime = install_runtime(&home.path("bin"));
        let settings = json!({
            "runtimes": { "koya": { "path": runtime } },
            "default-runtime": "koya",
            "hosts": [format!("unix://{}", home.path("socket").display())],
            "data-root": home.path("data"),
            "exec-root": home.path("exec"),
            "pidfile": home.path("pid"),
            "cgroup-parent": format!("/{}", cgroup()),
        });
        let settings = home.file("daemon.json", settings.to_string());
        let log = fs::File::create(home.path("log")).unwrap();
        let script = "ip link set lo up && exec dockerd --config-file \"$0\"";
        let engine = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script])
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut docker = Self { home, engine };
        let socket = docker.home.path("socket");
        let start = Instant::now();
        while !(socket.exists() && docker.said(&["version"]).code == Some(0)) {
            // Its log is shown as it is dropped.
            if let Some(status) = docker.engine.try_wait().unwrap() {
                panic!("docker's engine has ended: {status}");
            }
            assert!(start.elapsed() < PATIENCE, "docker's engine does not come up");
            thread::sleep(Duration::from_millis(100));
        }
        docker
    }

    /// `docker`, in the engine's network.
    fn docker(&self, words: &[&str]) -> Command {
        let mut command = self.without_settings(CLIENT);
        command
            .arg("--host")
            .arg(format!("unix://{}", self.home.path("socket").display()))
            .args(words);
        command
    }

    /// A client that has no settings: whoever runs the tests may have some, for another engine.
    fn without_settings(&self, client: &str) -> Command {
        let mut command = Command::new(client);
        command
            .env("DOCKER_CONFIG", self.home.path("config"))
            .env("DOCKER_BUILDKIT", "0")
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// What a command line says, to its end.
    fn said(&self, words: &[&str]) -> Said {
        Said::of(&self.docker(words).output().unwrap())
    }

    /// What one says that has to succeed.
    fn done(&self, words: &[&str]) -> String {
        let said = self.said(words);
        assert_eq!(said.code, Some(0), "docker {}: {}", words.join(" "), said.errors);
        said.out
    }

    /// Runs a command line for both runtimes, which have to say the same; what they said. `{}` is the runtime's name, and
    /// the container's.
    fn same(&self, words: &[&str]) -> Said {
        let [runc, koya] = BOTH.map(|name| {
            let words: Vec<_> = words.iter().map(|word| word.replace("{}", name)).collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let mut said = self.said(&words);
            for text in [&mut said.out, &mut said.errors] {
                *text = text.replace(name, "{}");
            }
            said
        });
        assert_eq!(koya, runc, "koya and runc: docker {}", words.join(" "));
        koya
    }

    /// A program in the engine's network.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.engine.id()));
        command.arg(program);
        command
    }

    /// Where the engine's and its shims' states of containers are.
    fn states(&self) -> PathBuf {
        self.home.path("exec/runtime-runc/moby")
    }

    /// Whether nothing of any microVM is left.
    fn is_nothing_left(&self) -> bool {
        let names = ["koya-vmm", "koya-monitor", "koya-container", "virtiofsd"];
        let states = fs::read_dir(self.states()).into_iter().flatten().flatten();
        let states = states.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        names.iter().all(|name| pids_of(name).is_empty()) && states.count() == 0
    }

    /// The engine ends, and with it all that it started.
    fn ends(mut self) {
        self.stop();
        assert!(!self.home.path("pid").exists(), "{}", self.log());
        until("something is left of the engine", || {
            self.is_nothing_left() && !self.has_processes()
        });
        // Of a cgroup that has others below it, the kernel says that it is busy.
        fs::remove_dir(Path::new("/sys/fs/cgroup").join(cgroup())).unwrap();
    }

    /// Whether a process is there that was started with a path of the engine's.
    fn has_processes(&self) -> bool {
        let home = self.home.path("");
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.any(|line| String::from_utf8_lossy(&line).contains(home.to_str().unwrap()))
    }

    fn stop(&mut self) {
        if !matches!(self.engine.try_wait(), Ok(None)) {
            return;
        }
        // SAFETY: kill takes two numbers and touches no memory.
        unsafe { libc::kill(self.engine.id().cast_signed(), libc::SIGTERM) };
        let start = Instant::now();
        while matches!(self.engine.try_wait(), Ok(None)) {
            if start.elapsed() >= FAREWELL {
                let _ = self.engine.kill();
                let _ = self.engine.wait();
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path("log")).unwrap_or_default()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("dockerd:\n{}", self.log());
        }
        self.stop();
    }
}

/// Where the engine puts its containers' cgroups.
fn cgroup() -> String {
    format!("koya-docker-{}", std::process::id())
}
