//! Containers that stay: what is done with them while they run.

use std::fs;
use std::process::Stdio;

use koya_tests::vm::Vm;

use super::{BOTH, Docker, IMAGE, pids_of, until};

/// Serves a folder, says so, and ends well when asked to.
const SERVER: &str = "trap 'echo heard' USR1; trap 'echo ending; exit 9' TERM; echo begun; httpd -p 80 -h /data; while :; do sleep 1; done";
/// Where they publish it, in the order of the runtimes.
const PORTS: [&str; 2] = ["18090", "18091"];

pub(super) fn a_container_lives_as_with_runc(engine: &Docker) {
    begins(engine);
    execs(engine);
    files(engine);
    network(engine);
    // What follows has one right answer, and every command takes its second.
    engine.done(&["rm", "--force", "--volumes", "runc"]);
    limits(engine);
    ends(engine);
}

fn begins(engine: &Docker) {
    for folder in ["site", "precious"] {
        fs::create_dir(engine.home.path(folder)).unwrap();
    }
    fs::write(engine.home.path("site/page"), "from the host\n").unwrap();
    fs::write(engine.home.path("precious/file"), "untouched\n").unwrap();
    let at = |name: &str, target: &str| format!("{}:{target}", engine.home.path(name).display());
    let (site, precious) = (at("site", "/data"), at("precious", "/precious:ro"));
    for (runtime, port) in BOTH.iter().zip(PORTS) {
        let line = format!(
            "run --detach --tty --init --runtime {runtime} --name {runtime} --hostname box --publish {port}:80 --volume {site} \
             --volume {precious} --volume kept-{runtime}:/kept --memory 256m --pids-limit 50 --env B=2 {IMAGE} sh -c"
        );
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.push(SERVER);
        engine.done(&words);
    }
}

fn execs(engine: &Docker) {
    let script = "id; pwd; echo $A$B; hostname; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; \
                  ip -o link show eth0 | grep -o 'mtu [0-9]*'; ip route | grep -o 'default via [0-9.]*'; grep -c box /etc/hosts; \
                  ip -o addr | grep -c inet6; ip -o -4 addr show lo; \
                  cat /etc/resolv.conf /etc/hostname; cat /data/page /precious/file /proc/1/comm; touch /precious/x; \
                  mount -o remount,rw /precious 2>/dev/null || echo no; echo more > /kept/file; \
                  cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; echo err >&2; exit 5";
    let said = engine.same(&["exec", "{}", "sh", "-c", script]);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.out.contains("268435456"), "{said:?}");
    let script = "id; test -t 1 && echo yes; pwd; kill -TERM $$";
    let said = engine.same(&[
        "exec",
        "--tty",
        "--user",
        "web",
        "--workdir",
        "/tmp",
        "{}",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(said.code, Some(143), "{said:?}");
    // The engine knows the reason by its words.
    let [runc, koya] = BOTH.map(|name| engine.said(&["exec", name, "nosuch"]));
    assert_eq!((koya.code, koya.code), (runc.code, Some(126)), "{koya:?}");
    assert!(koya.out.contains("no program 'nosuch'"), "{koya:?}");
}

fn files(engine: &Docker) {
    let note = engine.home.file("note", "copied\n");
    engine.same(&["cp", note.to_str().unwrap(), "{}:/copied"]);
    engine.same(&["cp", "{}:/etc/passwd", "-"]);
    let found = engine.done(&["diff", "koya"]);
    assert!(found.lines().any(|line| line == "A /copied"), "{found}");
}

fn network(engine: &Docker) {
    for port in PORTS {
        let page = format!("http://127.0.0.1:{port}/page");
        let said = engine
            .inside("curl")
            .args(["--silent", "--max-time", "60", &page])
            .output()
            .unwrap();
        assert_eq!(said.stdout, b"from the host\n", "port {port}");
    }
    // Who shares the network is in the same microVM.
    let boot = ["cat", "/proc/sys/kernel/random/boot_id"];
    let [mut beside, mut inside] = [
        vec!["run", "--rm", "--network", "container:koya", IMAGE],
        vec!["exec", "koya"],
    ];
    beside.extend(boot);
    inside.extend(boot);
    assert_eq!(engine.done(&beside), engine.done(&inside));
}

fn limits(engine: &Docker) {
    let words = "update --memory 128m --memory-swap 128m --pids-limit 40 koya";
    engine.done(&words.split_whitespace().collect::<Vec<_>>());
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"];
    let found = engine.done(&["exec", "koya", "cat", limits[0], limits[1]]);
    assert_eq!(found, "134217728\n40\n");
    let used = engine.done(&["stats", "--no-stream", "--format", "{{.PIDs}}", "koya"]);
    assert!(used.trim().parse::<u32>().is_ok_and(|pids| pids > 0), "{used:?}");
}

fn ends(engine: &Docker) {
    let mut following = engine.docker(&["logs", "--follow", "koya"]);
    following.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut following = Vm::spawn_as_it_is(following);
    following.expect("begun\r\n");
    engine.done(&["kill", "--signal", "USR1", "koya"]);
    following.expect("heard\r\n");
    let state = || {
        engine.done(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "koya",
        ])
    };
    engine.done(&["pause", "koya"]);
    assert_eq!(state(), "paused 0\n");
    engine.done(&["unpause", "koya"]);
    engine.done(&["stop", "koya"]);
    following.expect_exit(0);
    let said = "begun\r\nheard\r\nending\r\n";
    assert_eq!(following.console.text(), said);
    assert_eq!(engine.done(&["logs", "koya"]), said);
    assert_eq!(state(), "exited 9\n");
    until("something is left of a stopped container", || {
        engine.is_nothing_left()
    });
}

pub(super) fn a_microvm_that_is_killed_is_a_dead_container(engine: &Docker) {
    // The one that has stopped, again: with its files.
    let mut attached = engine.docker(&["start", "--attach", "koya"]);
    // What it says would be taken for a part of what this test is told by.
    let attached = attached.stdout(Stdio::null()).spawn().unwrap();
    let kept = || engine.said(&["exec", "koya", "cat", "/copied", "/kept/file"]).out;
    until("it does not start again", || kept() == "copied\nmore\n");
    for pid in pids_of("koya-vmm") {
        // SAFETY: kill takes two numbers and touches no memory.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    }
    assert_eq!(engine.done(&["wait", "koya"]), "137\n");
    assert_eq!(attached.wait_with_output().unwrap().status.code(), Some(137));
    let words = "events --since 1 --until 0s --filter container=koya --filter event=die \
                 --format {{.Actor.Attributes.exitCode}}";
    let ends = engine.done(&words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(ends, "9\n137\n");
    engine.done(&["rm", "koya"]);
    until("something is left of a killed container", || {
        engine.is_nothing_left()
    });
}
