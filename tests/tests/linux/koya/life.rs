//! What becomes of a container: entered, stopped, started again, attached, frozen.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::{User, await_line, ended, text, told, until};

#[test]
fn a_running_container_can_be_entered_stopped_and_removed() {
    let user = User::new();
    let image = user.image();
    let script = "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.1; done";
    let running = user.begin(&[
        "run",
        "--name",
        "web",
        "-e",
        "COLOUR=green",
        image.to_str().unwrap(),
        "sh",
        "-c",
        script,
    ]);
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
    let line = user.refused(&["run", "--name", "web", image.to_str().unwrap(), "sh"], 125);
    assert!(line.contains("the name \"web\" is in use by "), "{line}");
    let line = user.refused(&["rm", "web"], 1);
    assert!(line.contains("container web is running"), "{line}");

    let (out, errors, code) = told(&user.done(&["stop", "web"]));
    assert_eq!((out.as_str(), errors.as_str(), code), ("web\n", "", Some(0)));
    let (out, errors, code) = told(&ended(running));
    assert_eq!((out.as_str(), errors.as_str(), code), ("up\nbye\n", "", Some(3)));
    let listed = text(&user.done(&["ps", "-a"]).stdout);
    assert!(listed.contains("Exited (3)"), "{listed}");
    assert_eq!(told(&user.done(&["rm", "web"])).2, Some(0));
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_container_starts_again_with_what_it_wrote() {
    let user = User::new();
    let script = "if [ -e /again ]; then echo again; fi; touch /again; exec sleep 1000";
    let id = user.detach("web", &[], &["sh", "-c", script]);
    assert_eq!(id.len(), 12, "{id}");
    until("it does not write", || {
        told(&user.done(&["exec", "web", "ls", "/again"])).0 == "/again\n"
    });
    user.says(&["stop", "--time", "0", "web"]);
    assert_eq!(user.field("web", ".State.Status"), "exited");
    assert_eq!(user.field("web", ".State.ExitCode"), "137");
    assert_eq!(user.says(&["wait", "web"]), "137\n");
    // One that has stopped cannot be entered, frozen or sent signals.
    let line = user.refused(&["exec", "web", "true"], 125);
    assert!(line.contains("container web is not running"), "{line}");
    for verb in ["pause", "kill"] {
        let line = user.refused(&[verb, "web"], 1);
        assert!(line.contains("container web is not running"), "{line}");
    }

    let started = user.field("web", ".State.StartedAt");
    // New limits hold from the next start on, and at once while it runs.
    assert_eq!(user.says(&["update", "--pids-limit", "77", "web"]), "web\n");
    user.says(&["start", "web"]);
    until("it forgot", || user.says(&["logs", "web"]) == "again\n");
    assert_ne!(user.field("web", ".State.StartedAt"), started);
    user.says(&["update", "--memory", "48m", "--cpus", "0.5", "web"]);
    let limits = "cd /sys/fs/cgroup; cat pids.max memory.max memory.swap.max cpu.max";
    assert_eq!(
        user.says(&["exec", "web", "sh", "-c", limits]),
        "77\n50331648\n50331648\n50000 100000\n"
    );
    assert_eq!(user.field("web", ".HostConfig.Memory"), "50331648");
    let line = user.refused(&["update", "web"], 125);
    assert!(line.contains("nothing is to be changed"), "{line}");
    for (limit, value) in [("--cpus", "33"), ("--memory", "9g"), ("--memory-swap", "7m")] {
        let line = user.refused(&["update", limit, value, "web"], 1);
        assert!(line.contains(limit), "{line}");
    }
    user.says(&["restart", "--time", "0", "web"]);
    assert_eq!(user.field("web", ".State.Running"), "true");
    assert_eq!(
        user.says(&["exec", "web", "cat", "/sys/fs/cgroup/memory.max"]),
        "50331648\n"
    );
    user.says(&["rm", "--force", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn one_can_attach_to_a_running_container() {
    let user = User::new();
    let script = "read line; echo got $line; read line; exit 9";
    user.detach("web", &["-i"], &["sh", "-c", script]);
    let mut attached = user
        .koya(&["attach", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = attached.stdin.take().unwrap();
    typed.write_all(b"one\n").unwrap();
    let mut said = BufReader::new(attached.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "got one\n");
    // Whoever leaves, the container stays.
    attached.kill().unwrap();
    attached.wait().unwrap();
    assert_eq!(user.field("web", ".State.Status"), "running");
    let mut attached = user
        .koya(&["attach", "web"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    attached.stdin.take().unwrap().write_all(b"two\n").unwrap();
    assert_eq!(attached.wait().unwrap().code(), Some(9));
    user.says(&["rm", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_container_can_be_frozen_and_watched() {
    let user = User::new();
    let script = "while true; do echo tick; sleep 0.1; done";
    user.detach("web", &["--label", "role=clock"], &["sh", "-c", script]);
    user.says(&["pause", "web"]);
    assert!(user.says(&["ps"]).contains("(Paused)"));
    let ticks = || user.says(&["logs", "web"]).lines().count();
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(ticks(), before);
    user.says(&["unpause", "web"]);
    until("it stays frozen", || ticks() > before);
    let used = user.says(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]);
    assert!(used.starts_with("web "), "{used}");
    let ps = |filter: &str| user.says(&["ps", "--filter", filter, "--format", "{{.Names}}"]);
    assert_eq!(
        (ps("label=role=clock").as_str(), ps("label=role=db").as_str()),
        ("web\n", "")
    );
    // Its log is bounded in lines and in time.
    assert_eq!(user.says(&["logs", "--tail", "3", "web"]), "tick\ntick\ntick\n");
    assert_eq!(user.says(&["logs", "--until", "1h", "web"]), "");
    user.says(&["rm", "-f", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
