//! Containers that stay: what is done with them while they run.

use std::fs;
use std::process::Command;

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::support::succeed;

/// Serves a folder, says so, and ends well when asked to.
const SERVER: &str =
    "trap 'echo ending; exit 9' TERM; echo begun; httpd -p 80 -h /data; while :; do sleep 1; done";

#[test]
fn a_container_lives_as_with_crun() {
    let user = Podman::new();
    for folder in ["data", "precious"] {
        fs::create_dir(user.home.path(folder)).unwrap();
    }
    fs::write(user.home.path("data/page"), "from the host\n").unwrap();
    fs::write(user.home.path("precious/file"), "untouched\n").unwrap();
    fs::write(user.home.path("one.conf"), "by itself\n").unwrap();
    let at = |name: &str, target: &str| format!("{}:{target}", user.home.path(name).display());
    let volumes = [
        at("data", "/data"),
        at("precious", "/precious:ro"),
        at("one.conf", "/etc/one.conf"),
    ];
    for (runtime, (name, port)) in user.both().iter().zip([("crun", "18090"), ("koya", "18091")]) {
        let publish = format!("{port}:80");
        let mut words = vec![
            "run",
            "--detach",
            "--name",
            name,
            "--hostname",
            "box",
            "--publish",
            &publish,
        ];
        for volume in &volumes {
            words.extend(["--volume", volume]);
        }
        words.extend(["--env", "A=1", IMAGE, "sh", "-c", SERVER]);
        let said = user.said(runtime, &words);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    refuses_to_share(&user);
    execs(&user);
    files(&user);
    network(&user);
    ends(&user);
}

/// Whoever is in a network namespace keeps it, unless he is in a microVM that has room for another one.
fn refuses_to_share(user: &Podman) {
    let words = ["run", "--rm", "--network", "container:crun", IMAGE, "true"];
    let said = user.said(&user.both()[1], &words);
    assert_eq!(said.code, Some(126), "{said:?}");
    assert!(said.errors.contains("no container of Koya's"), "{said:?}");
}

fn execs(user: &Podman) {
    let exec = |options: &[&str], script: &str| {
        let mut words = vec!["exec"];
        words.extend(options);
        words.extend(["{}", "sh", "-c", script]);
        user.same_of(&words)
    };
    exec(&[], "id; pwd; echo $A; hostname; echo err >&2; exit 5");
    exec(
        &["--user", "1000:1000", "--workdir", "/tmp", "--env", "B=2"],
        "id; pwd; echo $A$B",
    );
    exec(
        &["--user", "web", "--privileged"],
        "id; grep CapBnd /proc/self/status | grep -c ffff",
    );
    exec(
        &[],
        "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; cat /proc/sys/kernel/shmmni",
    );
    let said = exec(&["--tty"], "test -t 1 && echo yes; kill -TERM $$");
    assert_eq!(said.out, "yes\r\n");
    user.koya(&[
        "exec",
        "--detach",
        "koya",
        "sh",
        "-c",
        "echo detached > /tmp/note; sleep 100",
    ]);
    until("the detached process did not run", || {
        user.koya(&["exec", "koya", "cat", "/tmp/note"]) == "detached\n"
    });
    for (program, code) in [("nosuch", 127), ("text", 126)] {
        let codes = ["crun", "koya"].map(|name| {
            let runtime = &user.both()[usize::from(name == "koya")];
            user.said(runtime, &["exec", name, program]).code
        });
        assert_eq!(codes, [Some(code), Some(code)], "{program}");
    }
}

fn files(user: &Podman) {
    let exec = |script: &str| user.same_of(&["exec", "{}", "sh", "-c", script]);
    exec("cat /data/page /etc/one.conf /precious/file; test -f /run/.containerenv && echo there");
    exec(
        "echo more >> /etc/one.conf; touch /precious/x; mount -o remount,rw /precious 2>/dev/null || echo no",
    );
    assert_eq!(fs::read_dir(user.home.path("precious")).unwrap().count(), 1);
    exec("stat -f -c %b /dev/shm; test -w /dev/shm && test -w /dev/null && echo writable");
    // What is copied goes to the container's files, and never to the host's.
    let note = user.home.path("note");
    fs::write(&note, "copied\n").unwrap();
    user.same_of(&["cp", note.to_str().unwrap(), "{}:/koya-copied"]);
    assert!(
        !std::path::Path::new("/koya-copied").exists(),
        "it went to the host"
    );
    assert_eq!(exec("cat /koya-copied").out, "copied\n");
    user.same_of(&["cp", "{}:/etc/passwd", "-"]);
    user.same_of(&["diff", "--format", "{{range .}}{{.Path}} {{end}}", "{}"]);
}

fn network(user: &Podman) {
    let exec = |script: &str| user.same_of(&["exec", "{}", "sh", "-c", script]);
    exec(
        "ip -o link show eth0 | grep -o 'mtu [0-9]*'; ip route | grep -o 'default via [0-9.]*'; ip -o -4 addr show lo",
    );
    exec("grep -c box /etc/hosts; cat /etc/resolv.conf");
    for port in ["18090", "18091"] {
        let said = Command::new("curl")
            .args([
                "--silent",
                "--max-time",
                "30",
                &format!("http://127.0.0.1:{port}/page"),
            ])
            .output()
            .unwrap();
        assert_eq!(said.stdout, b"from the host\n", "port {port}");
    }
    for name in ["koya", "crun"] {
        reach_from_within(user, name);
    }
}

/// Sends three million bytes to a port of 127.0.0.1 where somebody sends back what he gets; where nobody listens, nothing
/// comes back.
const ECHO: &str = "
import socket, threading
data = bytes(range(250)) * 12000
link = socket.create_connection(('127.0.0.1', 7), 30)
threading.Thread(target=lambda: (link.sendall(data), link.shutdown(socket.SHUT_WR))).start()
back = b''.join(iter(lambda: link.recv(1 << 16), b''))
try:
    nobody = socket.create_connection(('127.0.0.1', 9), 30).recv(1)
except OSError:
    nobody = 'refused'
print(back == data, nobody)
";

/// Programs of the namespace that the engine made reach the container by its loopback device.
pub fn reach_from_within(user: &Podman, name: &str) {
    let server = ["busybox", "nc", "-l", "-p", "7", "-e", "/bin/busybox", "cat"];
    user.koya(&[&["exec", "--detach", name], server.as_slice()].concat());
    let listens = "while ! busybox netstat -ltn | grep -q :7; do sleep 0.1; done";
    user.koya(&["exec", name, "busybox", "timeout", "60", "sh", "-c", listens]);
    let pid = user.koya(&["inspect", "--format", "{{.State.Pid}}", name]);
    let mut inside = Command::new("nsenter");
    inside.arg(format!("--net=/proc/{}/ns/net", pid.trim()));
    let said = succeed(inside.args(["python3", "-c", ECHO]));
    assert_eq!(said, "True refused\n", "{name}");
}

fn ends(user: &Podman) {
    user.same_of(&["pause", "{}"]);
    user.same_of(&["inspect", "--format", "{{.State.Status}}", "{}"]);
    user.same_of(&["unpause", "{}"]);
    let used = user.koya(&["stats", "--no-stream", "--format", "{{.PIDs}}", "koya"]);
    assert!(used.trim().parse::<u32>().is_ok_and(|pids| pids > 0), "{used:?}");
    user.same_of(&["stop", "{}"]);
    user.same_of(&["logs", "{}"]);
    let said = user.same_of(&[
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}}",
        "{}",
    ]);
    assert_eq!(said.out, "exited 9\n");
    until("something is left of a stopped container", is_nothing_left);
    user.same_of(&["start", "{}"]);
    assert_eq!(
        user.same_of(&["exec", "{}", "cat", "/koya-copied"]).out,
        "copied\n"
    );
    user.same_of(&["kill", "--signal", "KILL", "{}"]);
    user.same_of(&["wait", "{}"]);
    user.same_of(&["rm", "--force", "{}"]);
    until("something is left of a removed container", is_nothing_left);
}
