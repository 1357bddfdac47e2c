//! What the OCI runtime specification demands of a container, as far as no other test here shows it.

use std::fs;

use koya_proto::error::ErrorKind;
use serde_json::{Value, json};

use crate::place::{Place, shell};

/// Why a configuration is refused, of which nothing is left.
fn refused(place: &Place, change: impl FnOnce(&mut Value)) -> (ErrorKind, String) {
    let mut config = shell("true");
    change(&mut config);
    let error = place.client.create(place.request("room", &config)).unwrap_err();
    place.assert_gone("room");
    (error.kind().unwrap(), error.to_string())
}

#[test]
fn the_usual_devices_and_links_are_there() {
    let place = Place::new();
    let script = "for name in null zero full random urandom tty; do stat -c '%n %F %a %t:%T' /dev/$name; done; \
                  for name in fd stdin stdout stderr ptmx; do echo $name $(readlink /dev/$name); done";
    let (code, text) = place.run("room", &shell(script));
    let device = |name: &str, number: &str| format!("/dev/{name} character special file 666 {number}\n");
    let wanted = [
        device("null", "1:3"),
        device("zero", "1:5"),
        device("full", "1:7"),
        device("random", "1:8"),
        device("urandom", "1:9"),
        device("tty", "5:0"),
        "fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\nptmx pts/ptmx\n".to_owned(),
    ];
    assert_eq!((code, text), (0, wanted.concat()));
}

#[test]
fn devices_are_made_as_they_are_described() {
    let place = Place::new();
    let device = json!({ "path": "/dev/deep/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 3, "gid": 4 });
    let mut config = shell("stat -c '%F %a %t:%T %u %g' /dev/deep/own; head -c 2 /dev/deep/own | wc -c");
    config["linux"]["devices"] = json!([device]);
    let wanted = "character special file 644 1:5 3 4\n2\n";
    assert_eq!(place.run("room", &config), (0, wanted.to_owned()));
    // Something else is there already.
    let text = format!("{}/etc/text", place.root);
    let (_, error) = refused(&place, |config| {
        config["linux"]["devices"] = json!([device]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({ "destination": "/dev/deep/own", "type": "bind", "source": text, "options": ["bind"] }),
        );
    });
    assert!(
        error.contains("/dev/deep/own") || error.contains("EEXIST"),
        "{error}"
    );
}

#[test]
fn names_clocks_and_personality_are_the_containers() {
    let place = Place::new();
    let mut config = shell(
        "hostname; cat /proc/sys/kernel/domainname; uname -m; cat /proc/self/timens_offsets; cat /proc/sys/kernel/shmmni",
    );
    config["hostname"] = "own".into();
    config["domainname"] = "example.org".into();
    config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    config["linux"]["sysctl"] = json!({ "kernel.shmmni": "77" });
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "time" }));
    config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 100_000, "nanosecs": 5 } });
    let (code, text) = place.run("room", &config);
    let words: Vec<_> = text.split_whitespace().collect();
    let wanted = [
        "own",
        "example.org",
        "i686",
        "monotonic",
        "0",
        "0",
        "boottime",
        "100000",
        "5",
        "77",
    ];
    assert_eq!((code, words.as_slice()), (0, &wanted[..]));
    // The agent's are as they were.
    assert_ne!(
        fs::read_to_string("/proc/sys/kernel/domainname").unwrap(),
        "example.org\n"
    );
    let (_, error) = refused(&place, |config| {
        config["linux"]["sysctl"] = json!({ "no.such.parameter": "1" });
    });
    assert!(error.contains("no") && error.contains("such"), "{error}");
}

#[test]
fn what_nobody_knows_is_passed_over() {
    let place = Place::new();
    let mut config = shell("echo fine");
    for pointer in [
        "",
        "/process",
        "/process/user",
        "/root",
        "/mounts/0",
        "/linux",
        "/linux/resources",
    ] {
        config.pointer_mut(pointer).unwrap()["org.example.later"] = json!({ "deep": [1] });
    }
    assert_eq!(place.run("room", &config), (0, "fine\n".to_owned()));
}

#[test]
fn what_is_known_and_makes_no_sense_is_refused() {
    let place = Place::new();
    let limit = json!([{ "type": "RLIMIT_MOON", "soft": 1, "hard": 1 }]);
    let (kind, error) = refused(&place, |config| config["process"]["rlimits"] = limit);
    assert_eq!(kind, ErrorKind::ERROR_KIND_INVALID, "{error}");
    assert!(error.contains("RLIMIT_MOON"), "{error}");
    for (pointer, value) in [
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_MOON" })),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }),
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x" }),
        ),
        ("/linux/personality", json!({ "domain": "MOON" })),
        ("/process/scheduler", json!({ "policy": "SCHED_MOON" })),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_MOON", "priority": 1 }),
        ),
        ("/linux/resources/unified", json!({ "moon.max": "1" })),
        ("/linux/resources/unified", json!({ "../moon": "1" })),
        ("/linux/resources/unified", json!({ "memory.high": "much" })),
        (
            "/linux/resources/hugepageLimits",
            json!([{ "pageSize": "3KB", "limit": 1 }]),
        ),
    ] {
        let (_, error) = refused(&place, |config| {
            let (above, name) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(above).unwrap()[name] = value.clone();
        });
        assert!(!error.is_empty(), "{pointer} {value}");
    }
}

#[test]
fn the_first_victim_is_chosen_as_it_is_told() {
    let place = Place::new();
    let score = "cat /proc/self/oom_score_adj";
    let unchanged = fs::read_to_string(format!("/proc/{}/oom_score_adj", place.agent_pid())).unwrap();
    assert_eq!(place.run("room", &shell(score)), (0, unchanged));
    let mut config = shell(score);
    config["process"]["oomScoreAdj"] = 250.into();
    assert_eq!(place.run("room", &config), (0, "250\n".to_owned()));
}

#[test]
fn its_priority_is_as_it_is_told() {
    let place = Place::new();
    let mut config = shell("cut -d' ' -f19,41 /proc/self/stat; ionice -p $$");
    config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 7 });
    config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    let (code, text) = place.run("room", &config);
    // Nice value and policy (SCHED_BATCH is 3).
    assert_eq!((code, text.as_str()), (0, "7 3\nbest-effort: prio 6\n"));
}

#[test]
fn files_of_the_cgroup_are_written_as_they_are_named() {
    let place = Place::new();
    let file =
        |name: &str| fs::read_to_string(place.cgroup("room").join(name)).map(|text| text.trim().to_owned());
    let mut config = shell("sleep 1000");
    config["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20, "swap": 64 << 20 },
        "cpu": { "quota": 50_000, "period": 100_000, "burst": 20_000 },
        "unified": { "memory.high": (32 << 20).to_string(), "cgroup.max.depth": "3", "pids.max": "33" },
    });
    place.client.create(place.request("room", &config)).unwrap();
    place.client.start("room").unwrap();
    assert_eq!(file("memory.high").unwrap(), (32 << 20).to_string());
    assert_eq!(file("cgroup.max.depth").unwrap(), "3");
    assert_eq!(file("pids.max").unwrap(), "33");
    assert_eq!(file("cpu.max.burst").unwrap(), "20000");
    // The same with swap as without is none.
    assert_eq!(file("memory.swap.max").unwrap(), "0");
    let update = |resources: Value| place.client.update("room", resources.to_string().into_bytes());
    update(json!({ "memory": { "limit": 64 << 20, "swap": 96 << 20 } })).unwrap();
    assert_eq!(file("memory.swap.max").unwrap(), (32 << 20).to_string());
    update(json!({ "memory": { "limit": 48 << 20, "swap": 48 << 20 } })).unwrap();
    assert_eq!(file("memory.swap.max").unwrap(), "0");
    // Less than is used, by somebody who wants to know.
    let error = update(json!({ "memory": { "limit": 1, "checkBeforeUpdate": true } })).unwrap_err();
    assert!(error.to_string().contains("the container uses"), "{error}");
    assert_eq!(file("memory.max").unwrap(), (48 << 20).to_string());
    let error = update(json!({ "unified": { "moon.max": "1" } })).unwrap_err();
    assert!(error.to_string().contains("moon"), "{error}");
    place.client.delete("room", true).unwrap();
}
