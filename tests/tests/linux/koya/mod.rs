//! `koya` as its user runs it: containers from an image, each in a microVM of its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{Scratch, from_env};

use crate::support::{sha256, succeed};

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

/// Whether there is nothing in a folder, or no folder.
fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn a_container_has_a_kernel_a_name_and_an_exit_code_of_its_own() {
    let user = User::new();
    let script = "uname -r; hostname; id -u; echo $COLOUR; pwd; echo oops >&2; exit 7";
    let options = ["--hostname", "room", "-e", "COLOUR=green", "-w", "/tmp"];
    let (out, errors, code) = told(&user.run(&options, &["sh", "-c", script]));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((errors.as_str(), code), ("oops\n", Some(7)), "{out}");
    let ours = text(&Command::new("uname").arg("-r").output().unwrap().stdout);
    assert!(lines[0].starts_with("6.12.") && lines[0] != ours.trim(), "{out}");
    assert_eq!(lines[1..], ["room", "0", "green", "/tmp"]);
    assert_eq!(user.containers(), Vec::<String>::new());
    assert!(
        is_empty(&user.home.path("home/containers")),
        "something is left behind"
    );
}

#[test]
fn exit_codes_are_those_that_docker_users_know() {
    let user = User::new();
    for (words, code, said) in [
        (&["no-such-program"][..], 127, "no-such-program"),
        (&["/bin/text"], 126, "/bin/text"),
    ] {
        let (out, errors, got) = told(&user.run(&[], words));
        assert_eq!(got, Some(code), "{words:?}: {out}{errors}");
        assert!(errors.contains(said), "{words:?}: {errors}");
    }
    let (_, errors, code) = told(&user.done(&["run", "no-such-image", "true"]));
    assert_eq!(code, Some(125));
    assert!(
        errors.starts_with("koya: ") && errors.contains("no-such-image") && errors.lines().count() == 1,
        "{errors}"
    );
    let (_, _, code) = told(&user.done(&["run", "--no-such-option"]));
    assert_eq!(code, Some(125));
    assert!(
        is_empty(&user.home.path("home/containers")),
        "something is left behind"
    );
}

#[test]
fn streams_go_through_whole() {
    let user = User::new();
    let data: Vec<u8> = (0..3_000_000_u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    let image = user.image();
    let mut child = user
        .koya(&["run", "--rm", "-i", image.to_str().unwrap(), "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let given = data.clone();
    let feeder = thread::spawn(move || stdin.write_all(&given).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!(
        (text(&output.stderr).as_str(), output.status.code()),
        ("", Some(0))
    );
    assert_eq!(sha256(&output.stdout), sha256(&data));
}

#[test]
fn a_terminal_is_one_inside_and_has_the_size_of_the_one_outside() {
    let user = User::new();
    let inside = "busybox tty; stty size; exit 4";
    let line = format!(
        "stty rows 33 columns 99; exec {} run --rm -it {} sh -c '{inside}'",
        from_env("KOYA_CLI").display(),
        user.image().display()
    );
    // With a terminal of its own, and the exit code of what it runs.
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("KOYA_HOME", user.home.path("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, errors, code) = told(&output);
    assert_eq!(code, Some(4), "{out}{errors}");
    assert!(out.contains("/dev/pts/0\r\n33 99\r\n"), "{out:?}");
}

#[test]
fn a_running_container_can_be_entered_stopped_and_removed() {
    let user = User::new();
    let image = user.image();
    let script = "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.1; done";
    let running = user
        .koya(&[
            "run",
            "--name",
            "web",
            "-e",
            "COLOUR=green",
            image.to_str().unwrap(),
            "sh",
            "-c",
            script,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_line(&user, "web");

    let (out, errors, code) = told(&user.done(&[
        "exec",
        "web",
        "sh",
        "-c",
        "echo in $(hostname) $COLOUR; touch /mark; exit 5",
    ]));
    assert_eq!((errors.as_str(), code), ("", Some(5)));
    assert_eq!(out.trim(), format!("in {} green", user.containers()[0]));
    let (out, ..) = told(&user.done(&["exec", "web", "ls", "/mark"]));
    assert_eq!(out, "/mark\n");
    let (_, errors, code) = told(&user.done(&["exec", "web", "no-such-program"]));
    assert_eq!(code, Some(127), "{errors}");
    let (_, errors, code) = told(&user.done(&["exec", "web", "sh", "-c", "kill -9 $$"]));
    assert_eq!(code, Some(137), "{errors}");
    // The name is taken, and a container that runs is not removed without force.
    let (_, errors, code) = told(&user.done(&["run", "--name", "web", image.to_str().unwrap(), "sh"]));
    assert!(code == Some(125) && errors.contains("web"), "{errors}");
    let (_, errors, code) = told(&user.done(&["rm", "web"]));
    assert!(code == Some(1) && errors.contains("running"), "{errors}");

    let (out, errors, code) = told(&user.done(&["stop", "web"]));
    assert_eq!((out.as_str(), errors.as_str(), code), ("web\n", "", Some(0)));
    let (out, errors, code) = told(&ended(running));
    assert_eq!((out.as_str(), errors.as_str(), code), ("up\nbye\n", "", Some(3)));
    let listed = text(&user.done(&["ps", "-a"]).stdout);
    assert!(listed.contains("Exited (3)"), "{listed}");
    assert_eq!(told(&user.done(&["rm", "web"])).2, Some(0));
    assert!(
        is_empty(&user.home.path("home/containers")),
        "something is left behind"
    );
}

#[test]
fn an_interrupt_while_it_boots_leaves_nothing() {
    let user = User::new();
    let image = user.image();
    let booting = user
        .koya(&["run", image.to_str().unwrap(), "sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while is_empty(&user.home.path("home/containers")) {
        assert!(start.elapsed() < PATIENCE, "no container");
        thread::sleep(Duration::from_millis(1));
    }
    succeed(Command::new("kill").args(["-INT", &booting.id().to_string()]));
    let (out, errors, code) = told(&ended(booting));
    assert_eq!(code, Some(130), "{out}{errors}");
    assert!(
        is_empty(&user.home.path("home/containers")),
        "something is left behind"
    );
}

#[test]
fn a_hung_microvm_is_removed_by_force() {
    let user = User::new();
    let image = user.image();
    let running = user
        .koya(&["run", "--name", "web", image.to_str().unwrap(), "sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_line(&user, "web");
    let listed = text(&user.done(&["ps", "--format", "json"]).stdout);
    let state: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let vmm = state["vmmPid"].to_string();
    succeed(Command::new("kill").args(["-STOP", &vmm]));
    let (out, errors, code) = told(&user.done(&["rm", "-f", "web"]));
    assert_eq!((out.as_str(), errors.as_str(), code), ("web\n", "", Some(0)));
    assert_ne!(ended(running).status.code(), Some(0));
    assert!(
        is_empty(&user.home.path("home/containers")),
        "something is left behind"
    );
}

#[test]
fn a_killed_koya_takes_its_microvm_with_it_and_can_be_removed() {
    let user = User::new();
    let image = user.image();
    let mut running = user
        .koya(&["run", "--name", "web", image.to_str().unwrap(), "sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    await_line(&user, "web");
    let vmm = text(&user.done(&["ps", "--format", "json"]).stdout);
    let vmm: serde_json::Value = serde_json::from_str(vmm.lines().next().unwrap()).unwrap();
    let vmm = PathBuf::from(format!("/proc/{}", vmm["vmmPid"]));
    assert!(vmm.exists());
    running.kill().unwrap();
    running.wait().unwrap();

    let start = Instant::now();
    while vmm.exists() {
        assert!(start.elapsed() < PATIENCE, "the VMM lives on");
        thread::sleep(Duration::from_millis(50));
    }
    let listed = text(&user.done(&["ps", "-a"]).stdout);
    assert!(listed.contains("Dead"), "{listed}");
    assert_eq!(told(&user.done(&["rm", "web"])).2, Some(0));
    assert!(
        is_empty(&user.home.path("home/containers")),
        "something is left behind"
    );
}
