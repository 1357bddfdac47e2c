//! The doors of the README beside `koya`: each command as it stands there, at a terminal where somebody says yes when he is asked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::terminal::Terminal;
use koya_tests::vm::{Scratch, from_env};

use crate::podman::is_nothing_left;
use crate::support::{PATIENCE, install_runtime, run, until};

/// The host that the commands find.
const HOST: &str = include_str!("doors.sh");
/// What `koya setup` asks.
const QUESTION: &str = "Change it? [y/N] ";
/// How long all of it may take.
const LONG: Duration = PATIENCE.saturating_mul(5);

#[test]
fn every_door_of_the_readme_opens_as_written() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let doors = readme
        .split("```")
        .find(|block| block.starts_with("sh\nkoya setup podman"));
    let doors = doors
        .expect("the README has no doors")
        .strip_prefix("sh\n")
        .unwrap();
    for door in ["podman", "docker", "ctr", "kubectl"] {
        assert!(doors.contains(door), "{door}");
    }
    let home = Scratch::new();
    fs::create_dir(home.path("bin")).unwrap();
    install_runtime(&home.path("bin"));
    for (variable, name) in [("KOYA_CLI", "koya"), ("KOYA_SHIM", "containerd-shim-koya-v2")] {
        fs::copy(from_env(variable), home.path("bin").join(name)).unwrap();
    }
    let script = home.file("doors.sh", format!("{HOST}\nset -x\n{doors}\nset +x\n"));

    let mut terminal = Terminal::new();
    let path = format!(
        "{}:{}",
        home.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c"])
        .arg("ip link set lo up && exec bash \"$0\"")
        .arg(&script)
        .current_dir(home.path(""))
        .env("PATH", path)
        .env("HOME", home.path(""))
        .env("DOCKER_BUILDKIT", "0");
    // What is installed finds its parts beside it.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KOYA_")) {
        command.env_remove(name);
    }
    let mut user = terminal.run(command);
    let begun = Instant::now();
    let mut answered = 0;
    while user.is_running() {
        let screen = terminal.screen.text();
        assert!(begun.elapsed() < LONG, "{screen}");
        if screen.matches(QUESTION).count() > answered {
            terminal.type_in(b"y\n");
            answered += 1;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let screen = terminal.screen.text();
    assert_eq!(user.wait().code(), Some(0), "{screen}");
    assert_eq!(answered, 3, "{screen}");
    let lines: Vec<_> = screen.lines().map(str::trim_end).collect();
    let asked = |line: &&str| line.starts_with("+ podman") && line.ends_with("uname -r");
    let kernel = lines[lines.iter().position(asked).unwrap() + 1];
    assert_ne!(kernel, run("uname -r").trim(), "{screen}");
    // podman's, docker's, an application's of docker's, and containerd's.
    let told = lines.iter().filter(|line| **line == kernel).count();
    assert_eq!(told, 4, "{screen}");
    assert_eq!(screen.matches("\nhello from the host\r\n").count(), 2, "{screen}");
    let class = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/kubernetes/runtimeclass-koya.yaml");
    assert_eq!(
        fs::read_to_string(home.path("applied--f")).unwrap(),
        fs::read_to_string(class).unwrap()
    );
    until("something is left", is_nothing_left);
}
