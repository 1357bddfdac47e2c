//! What `kubectl exec`, `attach` and `cp` do, over the streams that they do it with.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::sandbox::{Sandbox, container};
use super::stream::Stream;
use crate::support::{LoopDevice, MIB, noise, run, succeed, until};

/// `CONTAINER_EXITED` of the interface.
const EXITED: u64 = 2;
/// Bytes of a file that is copied: of one or more frames, and more than a pipe holds.
const COPIED: u64 = 300_000;

pub fn an_exec_has_streams_and_an_exit_code(pod: &Sandbox<'_>, id: &str) {
    let script = "read line; echo \"heard $line\"; echo wrong >&2; exit 7";
    for how in ["websocket", "spdy"] {
        let mut exec = pod.exec(how, id, &["sh", "-c", script], false);
        exec.send("stdin", "one\n");
        let heard = exec.finish();
        let said = (heard.of("stdout"), heard.of("stderr"), heard.code());
        assert_eq!(said, ("heard one\n", "wrong\n", 7), "{how}");
    }
    let heard = pod.exec("spdy", id, &["no-such-program"], false).finish();
    assert!(heard.of("error").contains("no-such-program"), "{heard:?}");
}

/// `kubectl cp` packs a file on one side, and unpacks it on the other.
pub fn files_are_copied(pod: &Sandbox<'_>, id: &str) {
    let folder = pod.folder.join("copied");
    fs::create_dir_all(folder.join("back")).unwrap();
    fs::write(folder.join("file"), noise(COPIED)).unwrap();
    let (tar, other) = (folder.join("a.tar"), folder.join("b.tar"));
    let local = |words: &[&str], file: &std::path::Path| {
        succeed(
            Command::new("tar")
                .current_dir(&folder)
                .args(words)
                .arg("-f")
                .arg(file)
                .arg("file"),
        );
    };
    local(&["-c"], &tar);
    let mut exec = pod.exec("spdy", id, &["tar", "-xmf", "-", "-C", "/empty"], false);
    let bytes = fs::read(&tar).unwrap();
    exec.send(
        "stdin",
        &bytes.iter().map(|byte| char::from(*byte)).collect::<String>(),
    );
    exec.end("stdin");
    let heard = exec.finish();
    assert_eq!((heard.of("stderr"), heard.code()), ("", 0));
    let heard = pod
        .exec("spdy", id, &["tar", "-cf", "-", "-C", "/empty", "file"], false)
        .finish();
    assert_eq!((heard.of("stderr"), heard.code()), ("", 0));
    let bytes: Vec<_> = heard
        .of("stdout")
        .chars()
        .map(|char| u8::try_from(char).unwrap())
        .collect();
    fs::write(&other, bytes).unwrap();
    local(&["-x", "-C", "back"], &other);
    assert!(fs::read(folder.join("back/file")).unwrap() == noise(COPIED));
}

/// Converses with a shell on a terminal until that ends with this code.
fn converse(mut shell: Stream, code: u8) -> super::stream::Heard {
    shell.resize(77, 33);
    // What is typed is echoed, and is not what is waited for.
    shell.send(
        "stdin",
        "until test \"$(stty size)\" = '33 77'; do sleep 0.1; done; echo si''zed\n",
    );
    shell.until("stdout", "sized\r\n");
    shell.resize(78, 34);
    shell.send(
        "stdin",
        "until test \"$(stty size)\" = '34 78'; do sleep 0.1; done; echo be''gun; sleep 1000\n",
    );
    shell.until("stdout", "begun\r\n");
    shell.send("stdin", "\u{3}");
    shell.until("stdout", "^C");
    shell.send("stdin", &format!("echo code $?; exit {code}\n"));
    let heard = shell.finish();
    assert!(heard.of("stdout").contains("code 130\r\n"), "{heard:?}");
    heard
}

pub fn a_terminal_is_ones_own(pod: &Sandbox<'_>, id: &str) {
    let heard = converse(pod.exec("websocket", id, &["sh"], true), 5);
    assert_eq!((heard.of("stderr"), heard.code()), ("", 5));
    let mut config = container("terminal", "exec sh");
    config["tty"] = json!(true);
    config["stdin"] = json!(true);
    let id = pod.begin(&config);
    converse(pod.attach("spdy", &id, true), 6);
    until("the end is not seen", || pod.state(&id) == (EXITED, 6));
    assert!(pod.log("terminal").contains("code 130"));
}

pub fn what_is_attached_comes_and_goes(pod: &Sandbox<'_>) {
    let script = "while read line; do echo \"heard $line\"; echo \"aside $line\" >&2; done; echo all; exit 4";
    let mut config = container("open", script);
    config["stdin"] = json!(true);
    let id = pod.begin(&config);
    for (how, line) in [("websocket", "one"), ("spdy", "two")] {
        let mut attached = pod.attach(how, &id, false);
        attached.send("stdin", &format!("{line}\n"));
        attached.until("stdout", &format!("heard {line}\n"));
        attached.until("stderr", &format!("aside {line}\n"));
        let heard = attached.leave();
        assert_eq!(heard.of("stdout"), format!("heard {line}\n"));
    }
    // As with `kubectl run --stdin`: the end of what is typed is that of its input.
    let mut config = container("once", script);
    config["stdin"] = json!(true);
    config["stdin_once"] = json!(true);
    let once = pod.begin(&config);
    let mut attached = pod.attach("spdy", &once, false);
    attached.send("stdin", "three\nfour\n");
    attached.end("stdin");
    let heard = attached.finish();
    assert_eq!(heard.of("stdout"), "heard three\nheard four\nall\n");
    assert_eq!(heard.of("stderr"), "aside three\naside four\n");
    until("the end is not seen", || pod.state(&once) == (EXITED, 4));
    // Nobody has ended the other one.
    assert_ne!(pod.state(&id).0, EXITED);
    let log = pod.log("open");
    assert!(
        log.contains("stdout F heard one\n") && log.contains("stderr F aside two\n"),
        "{log}"
    );
}

pub fn a_privileged_container_sees_the_guests_devices(pod: &Sandbox<'_>) {
    run("modprobe loop");
    let file = pod.folder.join("disk");
    fs::File::create(&file).unwrap().set_len(MIB).unwrap();
    let device = LoopDevice::of(&file);
    let mut config = container("privileged", "exec sleep 100000");
    config["linux"]["security_context"]["privileged"] = json!(true);
    let id = pod.begin(&config);
    let devices = pod.said(&id, "ls /dev; grep CapEff /proc/self/status");
    let has = |name: &str| devices.lines().any(|line| line == name);
    // The node's are named to it (without privileged_without_host_devices), and those that are every kernel's are the guest's.
    assert!(has("kmsg") && has("null"), "{devices}");
    let boot = pod.said(&id, "dd if=/dev/kmsg bs=8k count=1 2> /dev/null");
    assert!(boot.contains("Linux version"), "{boot}");
    let host = fs::read_to_string("/proc/version").unwrap();
    assert!(!boot.contains(host.trim()), "{boot}");
    for path in ["/dev/kvm", "/dev/loop-control", device.path()] {
        assert!(fs::exists(path).unwrap(), "{path}");
        assert!(!has(path.trim_start_matches("/dev/")), "{path}: {devices}");
    }
    assert!(devices.contains("CapEff:\t000001ff"), "{devices}");
}

/// To a server that listens at the pod's own 127.0.0.1; and to none.
pub fn ports_are_forwarded(pod: &Sandbox<'_>) {
    let mut line = pod.forward(8000);
    line.send("data", "GET /note HTTP/1.0\r\n\r\n");
    line.until("data", "\r\n\r\nkept\n");
    assert_eq!(line.leave().of("error"), "");
    let mut line = pod.forward(8001);
    line.send("data", "GET /note HTTP/1.0\r\n\r\n");
    line.until("error", "8001");
    assert_eq!(line.leave().of("data"), "");
}
