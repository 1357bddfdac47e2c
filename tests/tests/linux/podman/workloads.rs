//! Programs that want all that there is: the host's devices, all processes, somebody who reads for ever.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::foreign::Disk;
use crate::support::Said;

/// Makes processes without end, each of which makes more; the first of them stays, and says when they were refused often.
const BOMB: &str = "b() { while :; do b & done; }; sleep 1000 & b 2> /dev/null & \
                    while :; do while read -r what times; do test $what = max && test $times -gt 9 && break 2; done \
                    < /sys/fs/cgroup/pids.events; done; echo refused; wait";

#[test]
fn a_privileged_container_has_the_guests_devices_and_none_of_the_hosts() {
    let user = Podman::new();
    let disk = Disk::new();
    let found = user.both().map(|runtime| {
        let search = disk.search();
        let mut words = vec!["run", "--rm", "--privileged", "--network", "none", IMAGE];
        words.extend(search.iter().map(String::as_str));
        user.said(&runtime, &words)
    });
    let [crun, koya] = found;
    // The program finds what is there.
    assert_eq!((crun.out.as_str(), crun.code), (Disk::FOUND, Some(0)), "{crun:?}");
    assert_eq!(
        (koya.out.as_str(), koya.code),
        (Disk::NOT_FOUND, Some(0)),
        "{koya:?}"
    );
    until("something is left of the containers", is_nothing_left);
}

#[test]
fn a_fork_bomb_stays_within_its_limit_and_can_be_removed() {
    let user = Podman::new();
    let begin = |name: &str, options: &[&str], script: &str| {
        let words = ["run", "--detach", "--name", name];
        user.koya(&[&words, options, &[IMAGE, "sh", "-c", script]].concat());
    };
    begin("beside", &["--network", "none"], "exec sleep 1000");
    // All processes that the guest's kernel has, those of other containers and its own as well.
    let all = || -> u32 {
        let load = user.koya(&["exec", "beside", "cat", "/proc/loadavg"]);
        let (_, all) = load.split_once('/').unwrap();
        all.split(' ').next().unwrap().parse().unwrap()
    };
    let before = all();
    // In the same microVM, which has one processor.
    begin(
        "bomb",
        &["--network", "container:beside", "--pids-limit", "50"],
        BOMB,
    );
    until("it meets no limit", || {
        user.koya(&["logs", "bomb"]) == "refused\n"
    });
    // A shell that is refused a process ends itself, and another one takes its place.
    until("it is not as large as it may be", || {
        let during = all();
        assert!(during < before + 60, "{before}, {during}");
        during >= before + 30
    });
    assert_eq!(user.koya(&["exec", "beside", "echo", "answers"]), "answers\n");
    let state = ["inspect", "--format", "{{.State.Status}}", "bomb"];
    assert_eq!(user.koya(&state), "running\n");
    user.koya(&["rm", "--force", "--time", "0", "bomb"]);
    until("its processes stay", || all() < before + 10);
    user.koya(&["rm", "--force", "--time", "0", "beside"]);
    until("something is left of a fork bomb", is_nothing_left);
}

#[test]
fn who_goes_away_early_is_missed_as_little_as_with_crun() {
    let user = Podman::new();
    let [crun, koya] = ["crun", "koya"].map(|name| {
        let runtime = &user.both()[usize::from(name == "koya")];
        let left = three_lines_are_read(&user, runtime, name);
        user.koya(&["rm", "--force", "--time", "0", name]);
        (left, nothing_is_read(&user, runtime))
    });
    assert_eq!(koya, crun);
    until("something is left of the containers", is_nothing_left);
}

/// Somebody reads three lines of many, and no more: how his client ends, and what becomes of the container.
fn three_lines_are_read(user: &Podman, runtime: &str, name: &str) -> (Option<i32>, String) {
    let script = "while echo y; do sleep 0.1; done";
    let words = [
        "run",
        "--name",
        name,
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    let mut client = user.podman(runtime, &words);
    let mut client = client
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(client.stdout.take().unwrap()).lines().take(3);
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(lines, ["y"; 3], "{name}");
    let code = client.wait().unwrap().code();
    let state = user.koya(&["inspect", "--format", "{{.State.Status}}", name]);
    (code, state)
}

/// Somebody has much to say to a program that reads nothing.
fn nothing_is_read(user: &Podman, runtime: &str) -> Said {
    let script = "exec <&-; sleep 1; echo unread";
    let words = [
        "run",
        "-i",
        "--rm",
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    let mut client = user.podman(runtime, &words);
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let typing = thread::spawn(move || stdin.write_all(&vec![b'y'; 1 << 20]).is_ok());
    let said = Said::of(&client.wait_with_output().unwrap());
    let _ = typing.join().unwrap();
    said
}
