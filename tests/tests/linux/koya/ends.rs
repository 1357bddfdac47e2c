//! Ends that nobody planned: interrupts, hung and killed processes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, User, await_line, ended, is_empty, told, until};
use crate::support::succeed;

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
    let vms = user.home.path("home/vms");
    let runs = || {
        let vm = fs::read_dir(&vms).unwrap().next().unwrap().unwrap().path();
        let state: Value = serde_json::from_slice(&fs::read(vm.join("state.json")).unwrap()).unwrap();
        state["vmmPid"].is_u64()
    };
    until("the first microVM does not go", || !runs());
    let starting = user.begin(&["start", "--attach", "web"]);
    until("it does not boot", runs);
    succeed(Command::new("kill").args(["-INT", &starting.id().to_string()]));
    let (out, errors, code) = told(&ended(starting));
    assert_eq!(code, Some(130), "{out}{errors}");
    assert_eq!(user.says(&["start", "--attach", "web"]), "kept\n");
    user.says(&["rm", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
