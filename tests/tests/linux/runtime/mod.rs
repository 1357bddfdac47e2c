//! `koya-runtime` by itself: its command line, as engines and people use runc's, and what bad input gets.

mod commands;
mod hooks;
mod observe;
mod refusals;
mod states;
mod streams;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::Scratch;
use serde_json::{Value, json};

pub use refusals::KVM;

use crate::support::{PATIENCE, Said, install_runtime, pids_of};

/// What containers have of busybox.
const APPLETS: &str = "sh cat echo sleep true seq grep ps head yes ls kill";

/// A bundle, a root file system for it, and a folder of states.
pub struct Bench {
    home: Scratch,
}

impl Bench {
    /// With an empty bundle.
    pub fn new() -> Self {
        let bench = Self { home: Scratch::new() };
        for folder in ["bin", "bundle"] {
            fs::create_dir(bench.path(folder)).unwrap();
        }
        for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "run"] {
            fs::create_dir_all(bench.root().join(folder)).unwrap();
        }
        install_runtime(&bench.path("bin"));
        let bin = bench.root().join("bin");
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        bench.home.file("config.toml", "follow_host_mounts = true\n");
        bench
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    /// The root file system.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// `koya-runtime` with these words after those that say where everything is.
    pub fn runtime(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin").join("koya-runtime"));
        command
            .env("KOYA_CONFIG", self.path("config.toml"))
            .arg("--root")
            .arg(self.path("states"))
            .arg("--log")
            .arg(self.path("log"))
            .args(["--log-format", "json"])
            .args(words)
            .current_dir(self.path("bundle"));
        command
    }

    /// Another runtime with the same bundle, in a version of the specification that all know.
    fn other(&self, name: &str, words: &[&str]) -> Said {
        let mut command = Command::new(name);
        command.arg("--root").arg(self.path(name)).args(words);
        self.ends(command.current_dir(self.path("bundle")))
    }

    /// Runs a command to its end. Its output goes to files: a container that it leaves running has it as well.
    pub fn ends(&self, command: &mut Command) -> Said {
        let (out, errors) = (self.path("out"), self.path("errors"));
        let file = |path: &Path| Stdio::from(File::create(path).unwrap());
        let status = command
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&errors))
            .status()
            .unwrap();
        Said {
            out: fs::read_to_string(out).unwrap(),
            errors: fs::read_to_string(errors).unwrap(),
            code: status.code(),
        }
    }

    /// What `koya-runtime` says, to its end.
    pub fn does(&self, words: &[&str]) -> Said {
        self.ends(&mut self.runtime(words))
    }

    /// What it says that has to succeed.
    pub fn done(&self, words: &[&str]) -> String {
        let said = self.does(words);
        assert_eq!((said.errors.as_str(), said.code), ("", Some(0)), "{words:?}");
        said.out
    }

    /// Creates a container with a pipe that is leaked into the runtime, as engines do: nothing that stays may hold it open.
    pub fn create_without_a_leak(&self, words: &[&str]) {
        let (mut reader, writer) = io::pipe().unwrap();
        let leaked = writer.as_raw_fd();
        let mut command = self.runtime(words);
        // Only there: what else is started meanwhile is not to have it.
        // SAFETY: between fork and exec, the call takes numbers, and touches no memory.
        unsafe {
            command.pre_exec(move || match libc::fcntl(leaked, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let said = self.ends(&mut command);
        assert_eq!((said.errors.as_str(), said.code), ("", Some(0)), "{words:?}");
        drop(writer);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(reader.read(&mut [0]).unwrap()));
        let end = receiver.recv_timeout(Duration::from_secs(20));
        assert_eq!(end, Ok(0), "a process of the container holds the engine's pipe");
    }

    /// What is refused is told on standard error, and the same in the log.
    pub fn refused(&self, words: &[&str], wanted: &str) {
        let (message, _) = self.refusal(words);
        assert!(message.contains(wanted), "{words:?}: {message}");
    }

    /// What is said of something that is refused with the exit code 1, and what kind of error it is to programs.
    fn refusal(&self, words: &[&str]) -> (String, String) {
        self.refusal_of(&mut self.runtime(words), 1)
    }

    /// The same of such a command, with another exit code.
    fn refusal_of(&self, command: &mut Command, code: i32) -> (String, String) {
        let _ = fs::remove_file(self.path("log"));
        let said = self.ends(command);
        assert_eq!(
            (said.code, said.errors.lines().count()),
            (Some(code), 1),
            "{command:?}: {said:?}"
        );
        let message = said.errors.trim_end().to_owned();
        let log = self.log();
        let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&line["level"], &line["msg"]),
            (&json!("error"), &json!(message)),
            "{command:?}"
        );
        assert!(
            line["time"].as_str().is_some_and(|time| time.ends_with('Z')),
            "{line}"
        );
        (message, line["kind"].as_str().unwrap().to_owned())
    }

    /// Writes what `spec` does, with a shell's script as the first process; what it wrote.
    pub fn spec(&self, script: &str) -> Value {
        let _ = fs::remove_file(self.config());
        self.done(&["spec"]);
        let mut spec: Value = serde_json::from_str(&fs::read_to_string(self.config()).unwrap()).unwrap();
        spec["root"]["path"] = self.root().to_str().unwrap().into();
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = json!(["sh", "-c", script]);
        self.write(&spec);
        spec
    }

    /// The bundle's file.
    pub fn config(&self) -> PathBuf {
        self.path("bundle").join("config.json")
    }

    /// Writes it.
    pub fn write(&self, spec: &Value) {
        fs::write(self.config(), spec.to_string()).unwrap();
    }

    /// What `--log` has.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The state of the container `web`.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.done(&["state", "web"])).unwrap()
    }

    /// What is left of any container: processes, folders, mounts.
    fn left(&self) -> Vec<String> {
        let names = ["koya-vmm", "koya-monitor", "koya-container", "virtiofsd"];
        let processes = names.into_iter().filter(|name| !pids_of(name).is_empty());
        let processes = processes.map(str::to_owned);
        let states = fs::read_dir(self.path("states")).into_iter().flatten().flatten();
        let states = states.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let home = self.path("").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(&home))
            .map(str::to_owned);
        processes
            .chain(states.filter(|name| name != ".parts"))
            .chain(mounts)
            .collect()
    }

    /// Waits until there is nothing.
    fn is_clean(&self, what: &str) {
        let start = Instant::now();
        while !self.left().is_empty() {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.left());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in ["web", "box"] {
            let _ = self.runtime(&["delete", "--force", name]).output();
        }
        for name in ["runc", "crun"] {
            if self.path(name).exists() {
                let _ = self.other(name, &["delete", "--force", "web"]);
            }
        }
    }
}
