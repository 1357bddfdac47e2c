//! System containers: an init as process 1, in all eight namespaces.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::client::ProcessId;
use serde_json::{Value, json};

use crate::place::{LONG, Place, exec_request, mapped, output, process, shell};

/// What the host asks every init with: systemd's word for it.
const SIGRTMIN_3: u32 = 37;

/// busybox's init, at a console that nobody looks at.
fn init() -> Value {
    let mut config = mapped(shell(""));
    config["process"]["args"] = json!(["/bin/init"]);
    config["process"]["terminal"] = json!(true);
    config["annotations"] = json!({ "dev.koya.system": "true" });
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "time" }));
    config
}

fn script(place: &Place, name: &str, script: &str) -> (u32, String) {
    let (code, bytes) = place.exec("room", name, &process(&["sh", "-c", script]), b"");
    (code, String::from_utf8(bytes).unwrap())
}

#[test]
fn an_init_runs_in_namespaces_of_its_own_and_powers_off() {
    let place = Place::mapped();
    place.client.create(place.request("room", &init())).unwrap();
    place.client.start("room").unwrap();
    assert_eq!(
        script(&place, "comm", "cat /proc/1/comm"),
        (0, "init\n".to_owned())
    );
    for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let path = format!("/proc/self/ns/{namespace}");
        let ours = fs::read_link(&path).unwrap();
        let (_, theirs) = script(
            &place,
            namespace,
            &format!("readlink {path}; readlink /proc/1/ns/{namespace}"),
        );
        let theirs: Vec<&str> = theirs.lines().collect();
        assert_eq!(
            theirs[0], theirs[1],
            "exec is in another {namespace} namespace than init"
        );
        assert_ne!(theirs[0], ours.to_str().unwrap(), "{namespace} is the agent's");
    }
    // What busybox's init takes for poweroff. Its end takes the shell along.
    let (stdio, _) = output();
    let off = process(&["kill", "-USR2", "1"]);
    place
        .client
        .exec(exec_request("room", "off", &off, stdio))
        .unwrap();
    let exit = place.client.wait(&"room".into(), Some(LONG)).unwrap();
    assert_eq!((exit.code, exit.signal), (0, 0));
    place
        .client
        .wait(&ProcessId::exec("room", "off"), Some(LONG))
        .unwrap();
    place.client.delete("room", false).unwrap();
    place.assert_gone("room");
}

#[test]
fn an_init_is_asked_to_stop_in_its_own_words() {
    let place = Place::mapped();
    let init = place.client.create(place.request("room", &init())).unwrap();
    place.client.start("room").unwrap();
    // Not before it holds back the signal, to look for it: SIGUSR2.
    let holds = |status: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
        u64::from_str_radix(mask.unwrap(), 16).unwrap() & (1 << 11) != 0
    };
    let start = Instant::now();
    loop {
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        if holds(&status) {
            break;
        }
        assert!(start.elapsed() < LONG, "{status}");
        thread::sleep(Duration::from_millis(20));
    }
    place.client.signal(&"room".into(), SIGRTMIN_3).unwrap();
    let exit = place.client.wait(&"room".into(), Some(LONG)).unwrap();
    assert_eq!((exit.code, exit.signal), (0, 0));
    place.client.delete("room", false).unwrap();
    place.assert_gone("room");
}

#[test]
fn an_init_that_does_not_listen_is_killed() {
    let place = Place::mapped();
    let mut deaf = init();
    deaf["process"]["args"] = json!(["sh", "-c", "trap '' USR2; sleep 1000"]);
    place.client.create(place.request("room", &deaf)).unwrap();
    place.client.start("room").unwrap();
    place.client.signal(&"room".into(), SIGRTMIN_3).unwrap();
    place.client.signal(&"room".into(), 9).unwrap();
    let exit = place.client.wait(&"room".into(), Some(LONG)).unwrap();
    assert_eq!((exit.code, exit.signal), (137, 9));
    place.client.delete("room", false).unwrap();
    place.assert_gone("room");
}

#[test]
fn an_init_that_runs_is_removed_by_force() {
    let place = Place::mapped();
    place.client.create(place.request("room", &init())).unwrap();
    place.client.start("room").unwrap();
    assert_eq!(script(&place, "x", "sleep 1000 & setsid sleep 1000 & true").0, 0);
    assert!(place.client.delete("room", false).is_err());
    place.client.delete("room", true).unwrap();
    place.assert_gone("room");
    // One that was never started goes, too.
    place.client.create(place.request("room", &init())).unwrap();
    place.client.delete("room", true).unwrap();
    place.assert_gone("room");
}
