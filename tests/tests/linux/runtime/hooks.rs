//! Programs of the host that are told of a container's life: where they run, and what becomes of those that go wrong.

use std::fs;

use serde_json::{Value, json};

use super::Bench;

/// All that run on the host.
const KINDS: [&str; 5] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "poststart",
    "poststop",
];
/// Namespaces that a container has of its own.
const NAMESPACES: &str = "net mnt pid uts ipc";

fn sh(script: &str, timeout: Option<u64>) -> Value {
    let mut hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] });
    if let Some(seconds) = timeout {
        hook["timeout"] = seconds.into();
    }
    json!([hook])
}

/// The namespaces that each hook has seen, in their order.
fn seen(bench: &Bench) -> Vec<(String, String)> {
    let story = fs::read_to_string(bench.path("story")).unwrap_or_default();
    let _ = fs::remove_file(bench.path("story"));
    let lines = story.lines().map(|line| line.split_once(": ").unwrap());
    lines
        .map(|(kind, seen)| (kind.to_owned(), seen.to_owned()))
        .collect()
}

#[test]
fn hooks_run_in_the_runtimes_namespaces() {
    let bench = Bench::new();
    let mut spec = bench.spec("exit 5");
    spec["ociVersion"] = "1.0.2".into();
    let links = |process: &str| {
        NAMESPACES.split(' ').fold(String::new(), |line, kind| {
            format!("{line} $(readlink {process}/ns/{kind})")
        })
    };
    for kind in KINDS {
        let script = format!(
            "echo {kind}:{} >> {}",
            links("/proc/self"),
            bench.path("story").display()
        );
        spec["hooks"][kind] = sh(&script, None);
    }
    bench.write(&spec);
    let host = crate::support::succeed(
        std::process::Command::new("sh").args(["-c", &format!("echo{}", links("/proc/self"))]),
    );
    let said = bench.does(&["run", "web"]);
    assert_eq!((said.errors.as_str(), said.code), ("", Some(5)));
    let own = seen(&bench);
    let said = bench.other("runc", &["run", "web"]);
    assert_eq!(said.code, Some(5), "{said:?}");
    let runc = seen(&bench);
    let order = |seen: &[(String, String)]| seen.iter().map(|(kind, _)| kind.clone()).collect::<Vec<_>>();
    assert_eq!(order(&own), KINDS);
    assert_eq!(order(&own), order(&runc));
    // The container's are another kernel's: createContainer runs where the others do, and with runc it does not.
    for ((kind, own), (_, runc)) in own.iter().zip(&runc) {
        assert_eq!(own, host.trim_end(), "{kind}");
        assert_eq!(
            runc == host.trim_end(),
            kind != "createContainer",
            "{kind} of runc: {runc}"
        );
    }
    bench.is_clean("something is left of a container with hooks");
}

#[test]
fn a_hook_that_goes_wrong_is_named_and_the_container_is_undone() {
    let bench = Bench::new();
    let good = bench.spec("true");
    let told = bench.path("told");
    let refusal = |kind: &str, script: &str, timeout: Option<u64>| {
        let mut spec = good.clone();
        spec["hooks"] = json!({ kind: sh(script, timeout), "poststop": sh(&format!("echo stopped >> {}", told.display()), None) });
        bench.write(&spec);
        let (message, class) = bench.refusal(&["create", "web"]);
        assert_eq!((class.as_str(), bench.left()), ("other", Vec::new()), "{message}");
        message
    };
    assert_eq!(
        refusal("createContainer", "echo no luck >&2; exit 3", None),
        "the createContainer hook \"/bin/sh\" failed with exit status: 3: no luck"
    );
    // It has become a process of its own, and hears of the end too.
    let alive = bench.path("alive");
    let hangs = format!(
        "(while :; do date > {}; sleep 0.1; done) & sleep 1000",
        alive.display()
    );
    assert_eq!(
        refusal("prestart", &hangs, Some(1)),
        "the prestart hook \"/bin/sh\" did not end within 1 s and was killed"
    );
    fs::remove_file(&alive).unwrap();
    let flood = refusal(
        "createRuntime",
        "head -c 20000000 /dev/zero | tr '\\0' x >&2; exit 1",
        Some(100),
    );
    let begin = "the createRuntime hook \"/bin/sh\" failed with exit status: 1: xxxx";
    assert!(
        flood.starts_with(begin) && flood.len() < 8192,
        "{} bytes",
        flood.len()
    );
    assert!(!alive.exists(), "what the hook started goes on");
    // What has been undone is told of.
    assert_eq!(fs::read_to_string(&told).unwrap(), "stopped\n".repeat(3));

    let mut spec = good.clone();
    spec["hooks"] = json!({ "startContainer": sh("true", None) });
    bench.write(&spec);
    let wanted = "config.json: the startContainer hook \"/bin/sh\": programs of the host cannot run in the guest; use \
                  createContainer or poststart";
    assert_eq!(
        bench.refusal(&["create", "web"]),
        (wanted.to_owned(), "invalid".to_owned())
    );
}
