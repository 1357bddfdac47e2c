//! What becomes of a container: detached, attached, stopped, started again, killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{PATIENCE, User, await_line, ended, is_empty, text, told, until};
use crate::support::succeed;

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
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn an_interrupt_while_it_boots_leaves_nothing() {
    let user = User::new();
    let image = user.image();
    let booting = user.begin(&["run", image.to_str().unwrap(), "sleep", "1000"]);
    let start = Instant::now();
    while is_empty(&user.home.path("home/containers")) {
        assert!(start.elapsed() < PATIENCE, "no container");
        thread::sleep(Duration::from_millis(1));
    }
    succeed(Command::new("kill").args(["-INT", &booting.id().to_string()]));
    let (out, errors, code) = told(&ended(booting));
    assert_eq!(code, Some(130), "{out}{errors}");
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_hung_microvm_is_removed_by_force() {
    let user = User::new();
    let image = user.image();
    let running = user.begin(&["run", "--name", "web", image.to_str().unwrap(), "sleep", "1000"]);
    await_line(&user, "web");
    let vmm = user.field("web", ".Vm.Pid");
    succeed(Command::new("kill").args(["-STOP", &vmm]));
    let (out, errors, code) = told(&user.done(&["rm", "-f", "web"]));
    assert_eq!((out.as_str(), errors.as_str(), code), ("web\n", "", Some(0)));
    assert_ne!(ended(running).status.code(), Some(0));
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_container_survives_the_koya_that_ran_it_and_ends_with_its_monitor() {
    let user = User::new();
    let image = user.image();
    let mut running = user.begin(&["run", "--name", "web", image.to_str().unwrap(), "sleep", "1000"]);
    await_line(&user, "web");
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(
        user.says(&["exec", "web", "hostname"]).trim(),
        user.containers()[0]
    );

    let vmm = PathBuf::from("/proc").join(user.field("web", ".Vm.Pid"));
    assert!(vmm.exists());
    succeed(Command::new("kill").args(["-KILL", &user.field("web", ".Vm.MonitorPid")]));
    until("the VMM lives on", || !vmm.exists());
    let listed = user.says(&["ps", "-a"]);
    assert!(listed.contains("Dead"), "{listed}");
    // It can be started again, and removed.
    user.says(&["start", "web"]);
    assert_eq!(user.field("web", ".State.Status"), "running");
    user.says(&["rm", "-f", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_detached_container_is_known_by_its_log_and_starts_again_with_what_it_wrote() {
    let user = User::new();
    let image = user.image();
    let script =
        "echo begun >&2; touch /kept; if [ -e /again ]; then echo again; fi; touch /again; exec sleep 1000";
    let id = user.says(&[
        "run",
        "-d",
        "--name",
        "web",
        image.to_str().unwrap(),
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(id.trim().len(), 12, "{id}");
    until("no log", || !told(&user.done(&["logs", "web"])).1.is_empty());
    let (out, errors, _) = told(&user.done(&["logs", "web"]));
    assert_eq!((out.as_str(), errors.as_str()), ("", "begun\n"));
    assert_eq!(user.says(&["exec", "web", "ls", "/kept"]), "/kept\n");

    let mut following = user.begin(&["logs", "--follow", "--timestamps", "web"]);
    user.says(&["stop", "--time", "0", "web"]);
    // It ends with the container.
    assert_eq!(following.wait().unwrap().code(), Some(0));
    assert_eq!(user.field("web", ".State.Status"), "exited");
    assert_eq!(user.field("web", ".State.ExitCode"), "137");
    assert_eq!(user.says(&["wait", "web"]), "137\n");
    let (_, errors, code) = told(&user.done(&["exec", "web", "true"]));
    assert!(code == Some(125) && errors.contains("not running"), "{errors}");

    user.says(&["start", "web"]);
    until("it forgot", || {
        told(&user.done(&["logs", "--tail", "1", "web"])).0 == "again\n"
    });
    user.says(&["restart", "--time", "0", "web"]);
    assert_eq!(user.field("web", ".State.Running"), "true");
    assert!(user.says(&["inspect", "web"]).contains("\"StartedAt\""));
    user.says(&["rm", "--force", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn one_can_attach_to_a_running_container() {
    let user = User::new();
    let image = user.image();
    let script = "read line; echo got $line; read line; exit 9";
    user.says(&[
        "run",
        "-d",
        "-i",
        "--name",
        "web",
        image.to_str().unwrap(),
        "sh",
        "-c",
        script,
    ]);
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
    let image = user.image();
    let script = "while true; do echo tick; sleep 0.1; done";
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--label",
        "role=clock",
        image.to_str().unwrap(),
        "sh",
        "-c",
        script,
    ];
    user.says(&words);
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

#[test]
fn an_interrupt_while_it_starts_again_keeps_what_was_there() {
    let user = User::new();
    let image = user.image();
    let script = "if [ -e /kept ]; then echo kept; fi; touch /kept";
    user.says(&[
        "run",
        "--name",
        "web",
        image.to_str().unwrap(),
        "sh",
        "-c",
        script,
    ]);
    let starting = user.begin(&["start", "--attach", "web"]);
    let vms = user.home.path("home/vms");
    let booting = || {
        let vm = fs::read_dir(&vms).unwrap().next().unwrap().unwrap().path();
        vm.join("api.sock").exists()
    };
    until("it does not boot", booting);
    succeed(Command::new("kill").args(["-INT", &starting.id().to_string()]));
    let (out, errors, code) = told(&ended(starting));
    assert_eq!(code, Some(130), "{out}{errors}");
    assert_eq!(user.says(&["start", "--attach", "web"]), "kept\n");
    user.says(&["rm", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
