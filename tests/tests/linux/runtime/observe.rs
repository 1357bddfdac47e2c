//! A container that runs, seen from outside: `state`, `list`, `ps`, `events`, and what `kill --all` and `--preserve-fds` do to it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::{Value, json};

use super::Bench;
use crate::support::until;

/// Two processes that write down what they hear.
const PAIR: &str = "trap 'echo first >> /told' USR1; \
                    sh -c \"trap 'echo second >> /told' USR1; echo ready >> /told; while :; do sleep 0.2; done\" & \
                    while :; do wait; done";

#[test]
fn a_container_that_runs_is_seen_as_with_runc() {
    let bench = Bench::new();
    let mut spec = bench.spec(PAIR);
    spec["annotations"] = json!({ "org.example": "kept" });
    // The newest version that this runc knows.
    spec["ociVersion"] = "1.0.2".into();
    bench.write(&spec);
    bench.create_without_a_leak(&["run", "--detach", "--preserve-fds", "2", "web"]);
    let warned = "--preserve-fds 2: descriptors of the host mean nothing in a microVM and are closed";
    let line: Value = serde_json::from_str(bench.log().lines().last().unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("warning"), &json!(warned))
    );
    let found = bench.does(&["exec", "web", "sh", "-c", "ls /proc/1/fd | grep -v '^[012]$'"]);
    assert_eq!(
        (found.out.as_str(), found.code),
        ("", Some(1)),
        "it has a descriptor"
    );
    has_told(&bench, "ready\n");

    state(&bench);
    lists(&bench, &spec);
    processes(&bench);
    signals(&bench);
    // It is deleted while it runs.
    events(&bench);
    bench.refused(&["state", "web"], "container 'web' does not exist");
    bench.is_clean("something is left of a container that was deleted by force");
}

fn state(bench: &Bench) {
    let state = bench.state();
    let pid = state["pid"].as_u64().unwrap();
    assert!(pid > 1 && fs::exists(format!("/proc/{pid}")).unwrap(), "{state}");
    for (field, wanted) in [
        ("ociVersion", json!("1.0.2")),
        ("id", json!("web")),
        ("status", json!("running")),
        ("bundle", json!(bench.path("bundle"))),
        ("rootfs", json!(bench.root())),
        ("annotations", json!({ "org.example": "kept" })),
        ("owner", json!("root")),
    ] {
        assert_eq!(state[field], wanted, "{field}");
    }
}

/// The same as runc's, but for pids and times.
fn lists(bench: &Bench, spec: &Value) {
    let mut plain = spec.clone();
    plain["process"]["args"] = json!(["sleep", "1000"]);
    bench.write(&plain);
    let begun = bench.other("runc", &["run", "--detach", "web"]);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    bench.write(spec);
    let both = |words: &[&str]| [bench.done(words), bench.other("runc", words).out];

    let [own, runc] = both(&["list", "--quiet"]);
    assert_eq!(own, "web\n");
    assert_eq!(own, runc);

    let tables = both(&["list"]).map(|table| {
        let rows = table.lines().map(|row| {
            let cells: Vec<_> = row.split_whitespace().map(str::to_owned).collect();
            assert_eq!(cells.len(), 6, "{table}");
            // The pid and the time of its creation.
            [0, 2, 3, 5].map(|column| cells[column].clone())
        });
        rows.collect::<Vec<_>>()
    });
    assert_eq!(tables[0].len(), 2, "{tables:?}");
    assert_eq!(tables[0], tables[1]);

    let [mut own, mut runc] =
        both(&["list", "--format", "json"]).map(|text| serde_json::from_str::<Value>(&text).unwrap());
    for list in [&mut own, &mut runc] {
        let about = list[0].as_object_mut().unwrap();
        assert!(about["pid"].as_u64().unwrap() > 1, "{about:?}");
        // runc tells its own version of the specification, Koya that of the bundle.
        for other in ["pid", "created", "ociVersion"] {
            about.remove(other).unwrap();
        }
    }
    // runc does not list annotations here that it does not keep.
    let kept = own[0].as_object_mut().unwrap().remove("annotations");
    assert_eq!(kept, Some(json!({ "org.example": "kept" })));
    runc[0].as_object_mut().unwrap().remove("annotations");
    assert_eq!(own, runc);
}

fn processes(bench: &Bench) {
    // As JSON the pids of the host. runc's container has one process as well.
    let pid = bench.state()["pid"].clone();
    let listed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(
        listed(&bench.done(&["ps", "--format", "json", "web"])),
        json!([pid])
    );
    let runc = bench.other("runc", &["ps", "--format", "json", "web"]);
    assert_eq!(listed(&runc.out).as_array().unwrap().len(), 1, "{runc:?}");
    // As a table those that somebody asked for. runc hands options to ps(1), which knows nothing of a guest.
    bench.done(&["exec", "--detach", "web", "sleep", "1000"]);
    let table = bench.done(&["ps", "web"]);
    let rows: Vec<Vec<_>> = table
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["GUEST", "PID", "PROCESS"]);
    assert!(
        rows[1][0].parse::<u32>().is_ok() && rows[1][1] == "init",
        "{table}"
    );
    assert_eq!((rows.len(), rows[2][0]), (3, "-"), "{table}");
    assert_eq!(bench.done(&["ps", "web", "-o", "pid,comm"]), table);
    let runc = bench.other("runc", &["ps", "web", "-o", "pid,comm"]);
    assert_eq!(runc.code, Some(0), "{runc:?}");
    let wrong = bench.refusal(&["ps", "--format", "yaml", "web"]);
    let wanted = "--format is \"yaml\"; want table or json";
    assert_eq!(wrong, (wanted.to_owned(), "invalid".to_owned()));
}

fn signals(bench: &Bench) {
    bench.done(&["kill", "web", "USR1"]);
    has_told(bench, "ready\nfirst\n");
    bench.done(&["kill", "--all", "web", "USR1"]);
    let all = || told(bench).lines().map(str::to_owned).collect::<Vec<_>>();
    until("not all have heard it", || all().len() == 4);
    let mut last = all().split_off(2);
    last.sort();
    assert_eq!(last, ["first", "second"]);
}

fn events(bench: &Bench) {
    let is_sound = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["type"], &event["id"]),
            (&json!("stats"), &json!("web")),
            "{line}"
        );
        for pointer in [
            "/data/cpu/usage/total",
            "/data/memory/usage/usage",
            "/data/pids/current",
        ] {
            let used = event.pointer(pointer).and_then(Value::as_u64);
            assert!(used.is_some_and(|used| used > 0), "{pointer}: {line}");
        }
        event
    };
    is_sound(&bench.done(&["events", "--stats", "web"]));
    let refused = bench.does(&["events", "--interval", "0s", "web"]);
    assert!(
        refused.code == Some(2) && refused.errors.contains("want more than 0"),
        "{refused:?}"
    );

    let mut command = bench.runtime(&["events", "--interval", "100ms", "web"]);
    let mut stream = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(stream.stdout.take().unwrap());
    for _ in 0..2 {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        is_sound(&line);
    }
    // The container's end is the stream's.
    bench.done(&["delete", "--force", "web"]);
    lines.read_to_string(&mut String::new()).unwrap();
    assert_eq!(stream.wait().unwrap().code(), Some(0));
}

fn told(bench: &Bench) -> String {
    fs::read_to_string(bench.root().join("told")).unwrap_or_default()
}

fn has_told(bench: &Bench, wanted: &str) {
    until(&format!("it has not told {wanted:?}"), || told(bench) == wanted);
}
