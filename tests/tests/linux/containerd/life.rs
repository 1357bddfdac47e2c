//! Tasks that stay: what is done with them while they run, and what becomes of them when somebody else dies.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Containerd, IMAGE, KOYA, kill, until};

/// Ends well when asked to.
const SERVER: &str = "trap 'exit 9' TERM; while :; do sleep 0.2; done";

/// How a task is: its pid, and what containerd says.
pub(super) fn task(engine: &Containerd) -> Option<(String, String)> {
    let tasks = engine.said(&["tasks", "ls"]).out;
    let mut words = tasks
        .lines()
        .find(|line| line.starts_with("web "))?
        .split_whitespace()
        .skip(1);
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

pub(super) fn is(engine: &Containerd, status: &str) {
    let what = format!("the task is not {status}: {:?}", task(engine));
    until(&what, || task(engine).is_some_and(|(_, is)| is == status));
}

fn begin(engine: &Containerd) {
    engine.done(&[
        "run",
        "--detach",
        "--runtime",
        KOYA,
        IMAGE,
        "web",
        "sh",
        "-c",
        SERVER,
    ]);
    is(engine, "RUNNING");
}

pub(super) fn a_task_is_looked_after(engine: &Containerd) {
    let events = listen(engine);
    begin(engine);
    let words = [
        "tasks",
        "exec",
        "--exec-id",
        "one",
        "web",
        "sh",
        "-c",
        "echo $A; echo err >&2; exit 4",
    ];
    let said = engine.said(&words);
    assert_eq!((said.out.as_str(), said.code), ("1\n", Some(4)), "{said:?}");
    assert!(said.errors.contains("err\n"), "{said:?}");
    let words = [
        "tasks",
        "exec",
        "--tty",
        "--exec-id",
        "tty",
        "web",
        "sh",
        "-c",
        "test -t 0 && echo yes; exit 6",
    ];
    let said = engine.on_a_terminal(&words);
    assert!(said.code == Some(6) && said.out.contains("yes\r"), "{said:?}");
    engine.done(&["tasks", "pause", "web"]);
    is(engine, "PAUSED");
    let said = engine.said(&["tasks", "exec", "--exec-id", "two", "web", "true"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    engine.done(&["tasks", "resume", "web"]);
    is(engine, "RUNNING");
    let used = engine.done(&["tasks", "metrics", "web"]);
    let metric = |name: &str| {
        let line = used
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{used}"));
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert!((1..100).contains(&metric("pids.current")), "{used}");
    assert!(
        metric("memory.usage") > 100_000 && metric("cpu.usage_usec") > 0,
        "{used}"
    );
    let pids = engine.done(&["tasks", "ps", "web"]);
    assert!(pids.contains(&task(engine).unwrap().0), "{pids}");
    // What still runs is not deleted.
    assert_ne!(engine.said(&["tasks", "delete", "web"]).code, Some(0));
    tells(
        engine,
        events,
        "create start exec-added exec-started exit paused resumed",
    );
}

/// `ctr events`, to a file.
pub(super) fn listen(engine: &Containerd) -> Child {
    let file = fs::File::create(engine.home.path("events")).unwrap();
    let child = engine
        .ctr(&["events"])
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It says nothing before the first event.
    thread::sleep(Duration::from_secs(1));
    child
}

/// Waits until all of these have been told.
fn tells(engine: &Containerd, mut events: Child, topics: &str) {
    let said = || fs::read_to_string(engine.home.path("events")).unwrap();
    for topic in topics.split(' ').map(|topic| format!("/tasks/{topic}")) {
        until(&format!("no {topic}"), || said().contains(&topic));
    }
    let _ = events.kill();
    let _ = events.wait();
}

pub(super) fn a_task_goes_on_without_containerd(engine: &mut Containerd) {
    let before = task(engine).unwrap();
    let shim = engine.shims();
    engine.restart();
    assert_eq!(task(engine).unwrap(), before);
    assert_eq!(engine.shims(), shim);
    let words = [
        "tasks",
        "exec",
        "--exec-id",
        "three",
        "web",
        "sh",
        "-c",
        "echo still here; exit 5",
    ];
    let said = engine.said(&words);
    assert_eq!(
        (said.out.as_str(), said.code),
        ("still here\n", Some(5)),
        "{said:?}"
    );
    // It ends while nobody is there to be told.
    engine.stop();
    let pid: u32 = before.0.parse().unwrap();
    kill(pid, libc::SIGTERM);
    until("it does not end", || !fs::exists(format!("/proc/{pid}")).unwrap());
    engine.restart();
    is(engine, "STOPPED");
    let said = engine.said(&["tasks", "delete", "web"]);
    assert!(said.errors.contains("exit code 9"), "{said:?}");
    engine.done(&["containers", "rm", "web"]);
    engine.is_clean("something is left of a task that outlived containerd");
}

pub(super) fn a_pods_shim_that_is_killed_leaves_nothing(engine: &Containerd) {
    let pod = "io.kubernetes.cri.sandbox-id=web";
    for (name, kind) in [("web", "sandbox"), ("member", "container")] {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let options = [
            "--detach",
            "--runtime",
            KOYA,
            "--annotation",
            pod,
            "--annotation",
            &kind,
        ];
        engine.done(&[&["run"], &options[..], &[IMAGE, name, "sh", "-c", SERVER]].concat());
    }
    let shim = engine.shims();
    assert_eq!(shim.len(), 1, "{shim:?}");
    engine.done(&["tasks", "kill", "--signal", "KILL", "member"]);
    until("the end is not told", || {
        let said = engine.said(&["tasks", "delete", "member"]);
        said.errors.contains("exit code 137")
    });
    engine.done(&["containers", "rm", "member"]);
    // The one that is left has a shim.
    assert_eq!(engine.shims(), shim);
    is(engine, "RUNNING");
    let mut waiting = waiter(engine);
    kill(shim[0], libc::SIGKILL);
    engine.is_clean("something is left of a killed shim");
    let _ = waiting.wait();
    until("containerd does not know", || {
        task(engine).is_none_or(|(_, status)| status != "RUNNING")
    });
    engine.said(&["tasks", "delete", "web"]);
    engine.done(&["containers", "rm", "web"]);
    // The name is free again.
    let words = ["run", "--rm", "--runtime", KOYA, IMAGE, "web", "echo", "again"];
    assert_eq!(engine.done(&words), "again\n");
}

pub(super) fn output_that_nobody_reads_keeps_nobody_waiting(engine: &Containerd) {
    let events = listen(engine);
    let script = "seq 1000000; sleep 1000";
    let mut user = engine
        .ctr(&["run", "--runtime", KOYA, IMAGE, "web", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut read = [0; 4];
    user.stdout.as_mut().unwrap().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"1\n2\n");
    user.kill().unwrap();
    user.wait().unwrap();
    is(engine, "RUNNING");
    engine.done(&["tasks", "kill", "--signal", "KILL", "web"]);
    is(engine, "STOPPED");
    let said = engine.said(&["tasks", "delete", "web"]);
    assert!(said.errors.contains("exit code 137"), "{said:?}");
    engine.done(&["containers", "rm", "web"]);
    tells(engine, events, "create start exit delete");
    engine.is_clean("something is left of a task that nobody listened to");
}

/// Somebody who is attached to the task meanwhile, and may not hang.
fn waiter(engine: &Containerd) -> Child {
    let mut command: Command = engine.ctr(&["tasks", "exec", "--exec-id", "four", "web", "sleep", "1000"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the process is not there", || {
        engine.said(&["tasks", "ps", "web"]).out.lines().count() > 2
    });
    child
}
