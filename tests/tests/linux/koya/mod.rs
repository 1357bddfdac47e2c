//! `koya` as its user runs it.

mod agent;
mod crowd;
mod docker;
mod ends;
mod files;
mod images;
mod inits;
mod life;
mod logs;
mod network;
mod policies;
mod refusals;
mod rooms;
mod rootless;
mod run;
mod space;
mod system;
mod templates;
mod tour;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{Scratch, from_env};

use crate::support::succeed;

/// Patience with a boot where KVM is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// A user's folder of images and containers, with one image in it.
struct User {
    home: Scratch,
}

impl User {
    /// Somebody with an image that holds busybox.
    fn new() -> Self {
        let user = Self { home: Scratch::new() };
        let root = user.home.path("root");
        for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh",
            "cat",
            "echo",
            "id",
            "ls",
            "sleep",
            "sha256sum",
            "uname",
            "hostname",
            "stty",
            "kill",
            "touch",
            "wc",
            "ps",
            "seq",
            "yes",
            "true",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(root.join("bin/text"), "no program\n").unwrap();
        let tar = user.image();
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(&root)
                .arg("-cf")
                .arg(&tar)
                .arg("."),
        );
        user
    }

    fn image(&self) -> PathBuf {
        self.home.path("busybox.tar")
    }

    fn koya(&self, words: &[&str]) -> Command {
        let mut command = Command::new(from_env("KOYA_CLI"));
        command.env("KOYA_HOME", self.home.path("home")).args(words);
        command
    }

    /// Runs `koya` to its end.
    fn done(&self, words: &[&str]) -> Output {
        self.koya(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `koya run --rm` with these words behind the image.
    fn run(&self, options: &[&str], words: &[&str]) -> Output {
        let image = self.image();
        let mut all = vec!["run", "--rm"];
        all.extend(options);
        all.push(image.to_str().unwrap());
        all.extend(words);
        self.done(&all)
    }

    /// Starts a container that nobody is attached to; its id.
    fn detach(&self, name: &str, options: &[&str], words: &[&str]) -> String {
        let image = self.image();
        let mut all = vec!["run", "--detach", "--name", name];
        all.extend(options);
        all.push(image.to_str().unwrap());
        all.extend(words);
        self.says(&all).trim().to_owned()
    }

    /// Runs `koya`, which has to refuse with this exit code, in one line on standard error; the line.
    fn refused(&self, words: &[&str], code: i32) -> String {
        refusal(&self.done(words), code)
    }

    /// Starts `koya` with nobody to type, and takes what it says.
    fn begin(&self, words: &[&str]) -> Child {
        let mut command = self.koya(words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs `koya` to its end, which has to be a good one; what it said.
    fn says(&self, words: &[&str]) -> String {
        let (out, errors, code) = told(&self.done(words));
        assert_eq!((errors.as_str(), code), ("", Some(0)), "koya {words:?}: {out}");
        out
    }

    /// What `koya inspect` knows under a name, as `.State.Status`.
    fn field(&self, container: &str, name: &str) -> String {
        let template = format!("{{{{{name}}}}}");
        self.says(&["inspect", "--format", &template, container])
            .trim()
            .to_owned()
    }

    /// Nothing is left of any container, nor of any microVM. Their networks may be a while behind them.
    fn has_nothing_left(&self) -> bool {
        let kept = |folder: &str| !is_empty(&self.home.path("home").join(folder));
        if kept("containers") || kept("vms") {
            return false;
        }
        until("the networks are down", || !self.has_networks());
        true
    }

    /// Whether any container is attached to a network, or has not been taken off it yet.
    fn has_networks(&self) -> bool {
        let boots = fs::read_dir(self.home.path("home/networks"));
        let mut boots = boots.into_iter().flatten().flatten().map(|entry| entry.path());
        boots.any(|boot| boot.join("attached").is_dir() && !is_empty(&boot.join("attached")))
    }

    /// The containers that are left, or run.
    fn containers(&self) -> Vec<String> {
        let listed = self.done(&["ps", "--all", "--quiet"]);
        text(&listed.stdout).lines().map(str::to_owned).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Output, errors and exit code.
fn told(output: &Output) -> (String, String, Option<i32>) {
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// What `koya` said that had to refuse with this exit code: one line on standard error.
fn refusal(output: &Output, expected: i32) -> String {
    let (out, errors, code) = told(output);
    let is_line = errors.starts_with("koya: ") && errors.lines().count() == 1;
    assert!(
        (out.as_str(), code) == ("", Some(expected)) && is_line,
        "{code:?} instead of {expected}: {out}{errors}"
    );
    errors
}

/// Waits until a container of this name runs.
fn await_line(user: &User, name: &str) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let listed = text(&user.done(&["ps"]).stdout);
        if listed
            .lines()
            .any(|line| line.ends_with(name) && line.contains("Up"))
        {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{name} does not run: {}", text(&user.done(&["ps", "-a"]).stdout));
}

fn ended(mut child: Child) -> Output {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if child.try_wait().unwrap().is_some() {
            return child.wait_with_output().unwrap();
        }
        thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    panic!(
        "koya does not end: {:?}",
        told(&child.wait_with_output().unwrap())
    );
}

/// Connects to a server, sends what is to be sent, and takes what it says until it ends; nothing if nobody listens.
fn exchange(address: &str, sent: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return String::new();
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let _ = stream.write_all(sent.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    text(&said)
}

/// Waits until something is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether there is nothing in a folder, or no folder.
fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
