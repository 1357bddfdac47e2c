//! What `run` and the words before a command do.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use koya_tests::vm::Scratch;
use serde_json::{Value, json};

use super::Bench;
use crate::support::{kill, until};

/// Tells what it hears, and ends as it is told to.
const LISTENER: &str =
    "trap 'echo heard' USR1; trap 'echo bye; exit 6' TERM; echo begun; while :; do sleep 0.2; done";

#[test]
fn run_ends_as_the_program_does_with_all_that_it_said() {
    let bench = Bench::new();
    let mut spec = bench.spec("seq 100000; echo bad >&2; exit 7");
    // These are taken from engines, and change nothing.
    let mut command = bench.runtime(&[
        "--rootless",
        "auto",
        "--debug",
        "--log-level",
        "debug",
        "run",
        "web",
    ]);
    let said = bench.ends(&mut command);
    let all: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(said.out == all, "{} bytes of {}", said.out.len(), all.len());
    assert_eq!((said.errors.as_str(), said.code), ("bad\n", Some(7)));
    bench.refused(&["state", "web"], "container 'web' does not exist");
    bench.is_clean("something is left of a container that was run");

    // Which program it was that cannot be run is told, and by the exit code as well, as a shell does.
    fs::write(bench.root().join("etc/text"), "no program\n").unwrap();
    for (program, code, kind, wanted) in [
        ("nosuch", 127, "no-program", "executable file not found in $PATH"),
        ("/etc/text", 126, "not-executable", "permission denied"),
    ] {
        spec["process"]["args"] = json!([program]);
        bench.write(&spec);
        let (message, found) = bench.refusal_of(&mut bench.runtime(&["run", "web"]), code);
        assert!(message.contains(program) && message.contains(wanted), "{message}");
        assert_eq!(found, kind);
        bench.is_clean("something is left of what could not be run");
    }
}

#[test]
fn signals_to_run_are_the_containers() {
    let bench = Bench::new();
    bench.spec(LISTENER);
    let told = bench.path("told");
    let mut run = bench
        .runtime(&["run", "--keep", "web"])
        .stdin(Stdio::null())
        .stdout(File::create(&told).unwrap())
        .spawn()
        .unwrap();
    let has = |word: &str| {
        until(&format!("nobody said {word}"), || {
            fs::read_to_string(&told).unwrap().ends_with(&format!("{word}\n"))
        });
    };
    has("begun");
    kill(run.id(), libc::SIGUSR1);
    has("heard");
    kill(run.id(), libc::SIGTERM);
    assert_eq!(run.wait().unwrap().code(), Some(6));
    assert_eq!(fs::read_to_string(&told).unwrap(), "begun\nheard\nbye\n");
    // It is kept as that was wanted.
    let state = bench.state();
    assert_eq!((&state["status"], &state["pid"]), (&json!("stopped"), &json!(0)));
    bench.done(&["delete", "web"]);
    bench.is_clean("something is left of a container that was deleted");
}

#[test]
fn features_are_those_of_the_specification() {
    let bench = Bench::new();
    let read = |said: String| serde_json::from_str::<Value>(&said).unwrap();
    let own = read(bench.done(&["features"]));
    let runc = bench.other("runc", &["features"]);
    let runc = read(runc.out);
    // What runc tells is told here, in the same form: its version of the specification is an older one.
    for (of, field) in [
        ("", "ociVersionMin"),
        ("", "ociVersionMax"),
        ("", "hooks"),
        ("", "mountOptions"),
    ]
    .into_iter()
    .chain(
        [
            "namespaces",
            "capabilities",
            "cgroup",
            "seccomp",
            "apparmor",
            "selinux",
        ]
        .map(|field| ("/linux", field)),
    )
    .chain(["v1", "v2", "systemd", "systemdUser"].map(|field| ("/linux/cgroup", field)))
    .chain(["enabled", "actions", "operators", "archs"].map(|field| ("/linux/seccomp", field)))
    .chain([("/linux/apparmor", "enabled"), ("/linux/selinux", "enabled")])
    {
        let pointer = format!("{of}/{field}");
        let form = |features: &Value| features.pointer(&pointer).map(form);
        assert_eq!(form(&own), form(&runc), "{pointer}");
    }
    // What is known since 1.1 and 1.2.
    for (pointer, wanted) in [
        ("/ociVersionMin", json!("1.0.0")),
        ("/ociVersionMax", json!("1.2.0")),
        ("/linux/cgroup/v2", json!(true)),
        ("/linux/seccomp/enabled", json!(true)),
        ("/linux/intelRdt/enabled", json!(false)),
        ("/linux/mountExtensions/idmap/enabled", json!(false)),
        (
            "/potentiallyUnsafeConfigAnnotations",
            json!(["dev.koya.vcpus", "dev.koya.memory-mib", "dev.koya.system"]),
        ),
    ] {
        assert_eq!(own.pointer(pointer), Some(&wanted), "{pointer}");
    }
    let names = |features: &Value, pointer: &str| -> Vec<String> {
        serde_json::from_value(features.pointer(pointer).unwrap().clone()).unwrap()
    };
    let hooks = names(&own, "/hooks");
    let mut known = names(&runc, "/hooks");
    known.retain(|hook| hook != "startContainer");
    assert_eq!(
        hooks, known,
        "a hook is told of that is refused, or the other way round"
    );
    for pointer in ["/linux/namespaces", "/linux/capabilities"] {
        let own = names(&own, pointer);
        let missing: Vec<_> = names(&runc, pointer)
            .into_iter()
            .filter(|name| !own.contains(name))
            .collect();
        assert_eq!(missing, Vec::<String>::new(), "{pointer}");
    }
}

/// What a value is, and what its elements are.
fn form(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(list) if list.iter().all(Value::is_string) => "texts",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[test]
fn a_log_of_text_looks_as_runcs_does() {
    let home = Scratch::new();
    let own = crate::support::install_runtime(&home.path(""));
    let shapes = [own.as_path(), Path::new("runc")].map(|program| {
        let log = home.path("log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(home.path("states"))
            .arg("--log")
            .arg(&log);
        let said = command
            .args(["--log-format", "text", "state", "nosuch"])
            .output()
            .unwrap();
        assert_eq!(said.status.code(), Some(1), "{program:?}");
        let line = fs::read_to_string(&log).unwrap();
        // What is between quotation marks differs, and is there.
        let parts: Vec<_> = line.split('"').collect();
        let quoted = |number: usize| parts.get(number).is_some_and(|text| !text.is_empty());
        assert!(quoted(1) && quoted(3), "{line}");
        parts
            .into_iter()
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    assert_eq!(shapes[0], shapes[1]);
}
