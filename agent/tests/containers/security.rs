//! What a container may not do.

use std::io::Read;

use koya_proto::v1::Stdio;
use serde_json::{Value, json};

use crate::place::{LONG, Place, exec_request, mapped, output, process, shell};

/// chroot(2) and mkdir(2) are refused, with different errors.
fn filter() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            { "names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" },
        ],
    })
}

const TRY: &str = "grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status; chroot / true 2>&1; mkdir /tmp/x 2>&1";
const REFUSED: [&str; 2] = ["Function not implemented", "Operation not permitted"];

fn assert_filtered(output: &str, no_new_privileges: u32) {
    assert!(
        output.contains(&format!("NoNewPrivs:\t{no_new_privileges}\nSeccomp:\t2\n")),
        "{output}"
    );
    for error in REFUSED {
        assert!(output.contains(error), "{output}");
    }
}

#[test]
fn system_calls_are_filtered_with_and_without_new_privileges() {
    let place = Place::new();
    for (id, no_new_privileges) in [("may", false), ("may-not", true)] {
        let mut config = shell(&format!("{TRY}; sleep 1000"));
        config["linux"]["seccomp"] = filter();
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let (stdio, out) = output();
        let mut request = place.request(id, &config);
        request.stdio = Some(stdio).into();
        place.client.create(request).unwrap();
        let mut stream = place.stream(out);
        place.client.start(id).unwrap();
        // What runs later in the container is filtered, too.
        let mut other = process(&["sh", "-c", TRY]);
        other["noNewPrivileges"] = json!(no_new_privileges);
        let (_, bytes) = place.exec(id, "x", &other, b"");
        assert_filtered(&String::from_utf8(bytes).unwrap(), no_new_privileges.into());
        place.client.delete(id, true).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_filtered(&text, no_new_privileges.into());
    }
}

#[test]
fn a_user_without_capabilities_is_filtered_too() {
    let place = Place::new();
    let mut config = shell(TRY);
    config["linux"]["seccomp"] = filter();
    config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    config["process"]["capabilities"] = json!({});
    let (_, text) = place.run("room", &config);
    assert!(
        text.contains("Seccomp:\t2\n") && text.contains(REFUSED[1]),
        "{text}"
    );
}

#[test]
fn users_are_found_by_name() {
    let place = Place::new();
    let (stdio, out) = output();
    let mut request = place.request("room", &shell("id -u; id -g; id -G; echo $HOME; sleep 1000"));
    request.user = "ada:users".to_owned();
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    let mut stream = place.stream(out);
    place.client.start("room").unwrap();
    let (stdio, later) = output();
    let mut request = exec_request("room", "x", &process(&["id", "-G"]), stdio);
    request.user = "ada".to_owned();
    place.client.exec(request).unwrap();
    let mut text = String::new();
    place.stream(later).read_to_string(&mut text).unwrap();
    assert_eq!(text, "1000 7 100\n");
    let mut request = exec_request("room", "y", &process(&["id"]), Stdio::default());
    request.user = "nobody-here".to_owned();
    let error = place.client.exec(request).unwrap_err();
    assert!(error.to_string().contains("'nobody-here'"), "{error}");
    place.client.delete("room", true).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1000\n100\n100\n/home/ada\n");
}

#[test]
fn limits_of_processes_may_be_higher_than_the_agents() {
    let place = Place::mapped();
    let mut config = mapped(shell("ulimit -n; ulimit -Hn; ulimit -c"));
    config["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 5000, "hard": 600_000 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
    ]);
    assert_eq!(place.run("room", &config), (0, "5000\n600000\n0\n".to_owned()));
}

#[test]
fn a_small_init_reaps_and_passes_signals_on() {
    let place = Place::new();
    // An orphan ends, and nothing of it stays; then a signal comes.
    let script = "cat /proc/1/comm; (sleep 0.1 & exec true); sleep 0.5; \
        grep -c '(sleep) Z' /proc/[0-9]*/stat | grep -v ':0' ; trap 'echo told; exit 9' TERM; echo ready; \
        while :; do sleep 0.05; done";
    let (stdio, out) = output();
    let mut request = place.request("room", &shell(script));
    request.init = true;
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    let mut stream = place.stream(out);
    place.client.start("room").unwrap();
    let mut text = String::new();
    while !text.contains("ready") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0].into());
    }
    place.client.signal(&"room".into(), 15).unwrap();
    assert_eq!(place.client.wait(&"room".into(), Some(LONG)).unwrap().code, 9);
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "koya-init\nready\ntold\n");
    place.client.delete("room", false).unwrap();
    place.assert_gone("room");
}
