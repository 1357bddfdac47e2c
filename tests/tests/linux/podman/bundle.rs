//! `koya-runtime` by itself, as the OCI runtime specification describes it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{is_nothing_left, succeed, until};
use crate::runtime::Bench;

#[test]
fn a_bundle_lives_as_the_specification_says() {
    let bench = Bench::new();
    bench.done(&["spec"]);
    bench.refused(&["spec"], "config.json");
    let config = bench.path("bundle").join("config.json");
    let mut spec: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    spec["root"]["path"] = bench.root().to_str().unwrap().into();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = json!([
        "sh",
        "-c",
        "trap 'exit 6' TERM; echo begun; while :; do sleep 1; done"
    ]);
    spec["annotations"] = json!({ "org.example": "kept" });
    let story = bench.path("story");
    let hook = |kind: &str| {
        let script = format!(
            "echo {kind} $(grep -o '\"status\":\"[a-z]*\"') >> {}",
            story.display()
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
    };
    let kinds = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    spec["hooks"] = kinds
        .iter()
        .map(|kind| ((*kind).to_owned(), hook(kind)))
        .collect();
    fs::write(&config, spec.to_string()).unwrap();

    bench.refused(&["state", "web"], "container 'web' does not exist");
    bench.refused(&["create", "a/b"], "no container id");
    bench.refused(
        &["create", "--bundle", "/no/such/bundle", "web"],
        "/no/such/bundle",
    );
    let pid_file = bench.path("pid");
    bench.create_without_a_leak(&["create", "--pid-file", pid_file.to_str().unwrap(), "web"]);
    let state = bench.state();
    assert_eq!(state["pid"].to_string(), fs::read_to_string(&pid_file).unwrap());
    assert_eq!(
        (&state["status"], &state["id"]),
        (&json!("created"), &json!("web"))
    );
    assert_eq!(state["annotations"], json!({ "org.example": "kept" }));
    assert_eq!(state["bundle"], json!(bench.path("bundle")));
    bench.refused(&["create", "web"], "already exists");
    bench.refused(&["exec", "web", "true"], "only a running one");
    bench.refused(&["pause", "web"], "only a running one");
    bench.done(&["start", "web"]);
    bench.refused(&["start", "web"], "only a created one");
    assert_eq!(bench.state()["status"], "running");
    bench.refused(&["delete", "web"], "only a stopped one");
    bench.refused(&["kill", "web", "NONSENSE"], "no signal");
    assert_eq!(
        bench
            .does(&["exec", "--env", "B=2", "web", "sh", "-c", "echo $B; exit 4"])
            .code,
        Some(4)
    );
    assert_eq!(bench.does(&["exec", "web", "nosuch"]).code, Some(127));
    // A process of whose pid nobody gets to know does not stay.
    let nowhere = "/no/such/folder/pid";
    let words = ["exec", "--detach", "--pid-file", nowhere, "web", "sleep", "4321"];
    bench.refused(&words, nowhere);
    let found = bench.does(&["exec", "web", "sh", "-c", "ps | grep 432[1]"]);
    assert_eq!((found.out.as_str(), found.code), ("", Some(1)));
    bench.done(&["pause", "web"]);
    assert_eq!(bench.state()["status"], "paused");
    bench.done(&["resume", "web"]);
    bench.done(&["update", "--pids-limit", "77", "web"]);
    let events: Value = serde_json::from_str(&bench.done(&["events", "--stats", "web"])).unwrap();
    assert_eq!(events["data"]["pids"]["limit"], 77);
    assert!(bench.done(&["list"]).contains("running"));
    bench.done(&["kill", "web", "TERM"]);
    until("it does not stop", || bench.state()["status"] == "stopped");
    assert_eq!(bench.state()["pid"], 0);
    bench.refused(&["kill", "web", "TERM"], "is stopped");
    bench.done(&["delete", "web"]);
    bench.refused(&["delete", "web"], "does not exist");
    bench.done(&["delete", "--force", "web"]);
    let wanted = "prestart \"status\":\"creating\"\ncreateRuntime \"status\":\"creating\"\n\
                  createContainer \"status\":\"creating\"\npoststart \"status\":\"running\"\npoststop \"status\":\"stopped\"\n";
    assert_eq!(fs::read_to_string(&story).unwrap(), wanted);

    // A hook that fails ends the creation, and nothing is left.
    spec["hooks"]["createRuntime"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 1"] }]);
    fs::write(&config, spec.to_string()).unwrap();
    bench.refused(&["create", "web"], "no luck");
    bench.refused(&["state", "web"], "does not exist");
}

/// Programs of the host, one after the other, that add a line to a file; each of these words is one, and fails after `!`.
fn story(file: &Path, words: &[&str]) -> Value {
    let hook = |word: &&str| {
        let (word, code) = word.strip_suffix('!').map_or((*word, 0), |word| (word, 3));
        let script = format!("echo {word} >> {}; exit {code}", file.display());
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script] })
    };
    words.iter().map(hook).collect()
}

/// Mounts something on a folder of the host that is there as long as this.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(kind: &str, folder: std::path::PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        succeed(Command::new("mount").args(["-t", kind, kind]).arg(&folder));
        succeed(Command::new("mount").arg("--make-shared").arg(&folder));
        Self(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_was_created_is_what_lives_whatever_hooks_and_files_do() {
    let bench = Bench::new();
    let (told, ran) = (bench.path("told"), bench.root().join("ran"));
    let data = Mounted::new("tmpfs", bench.path("data"));
    let mut spec = bench.spec("echo ran >> /ran; while :; do sleep 1; done");
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({ "destination": "/data", "type": "bind", "source": data.0, "options": ["rbind", "rslave"] }),
    );
    mounts.push(json!({ "destination": "/apart", "type": "bind", "source": data.0, "options": ["rbind", "rprivate"] }));
    mounts.push(json!({ "destination": "/huge", "type": "hugetlbfs", "source": "hugetlbfs", "options": ["pagesize=2M"] }));
    // What is mounted below a folder comes with it, or does not.
    let below = Mounted::new("tmpfs", data.0.join("below"));
    fs::write(below.0.join("file"), "").unwrap();
    mounts.push(json!({ "destination": "/top", "type": "bind", "source": data.0, "options": ["bind"] }));
    // As Kubernetes gives a pod its huge pages: a folder of the host's.
    let pages = Mounted::new("hugetlbfs", bench.path("pages"));
    mounts.push(
        json!({ "destination": "/pages", "type": "bind", "source": pages.0, "options": ["rbind", "nosuid"] }),
    );
    spec["linux"]["resources"]["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": 4 << 20 }]);
    spec["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_FLY"]);
    spec["hooks"] = json!({
        "createRuntime": story(&told, &["one", "two"]),
        "poststart": story(&told, &["three!", "four"]),
        "poststop": story(&told, &["five!", "six"]),
    });

    // What cannot be created leaves nothing, and is told.
    let file = bench.path("file");
    fs::write(&file, "").unwrap();
    let namespaces = json!([{ "type": "pid" }, { "type": "network", "path": file }]);
    for (pointer, value, wanted) in [
        ("/linux/cgroupsPath", json!("/../outside"), "linux.cgroupsPath"),
        ("/linux/namespaces", namespaces, file.to_str().unwrap()),
        ("/process", Value::Null, "process is null"),
    ] {
        let mut other = spec.clone();
        let (above, name) = pointer.rsplit_once('/').unwrap();
        other.pointer_mut(above).unwrap()[name] = value;
        bench.write(&other);
        bench.refused(&["create", "web"], wanted);
        bench.refused(&["state", "web"], "does not exist");
    }
    let _ = fs::remove_file(&told);
    let _ = fs::remove_file(bench.path("log"));

    bench.write(&spec);
    bench.done(&["create", "web"]);
    assert!(bench.log().contains("CAP_FLY"), "{}", bench.log());
    assert_eq!(fs::read_to_string(&told).unwrap(), "one\ntwo\n");
    // The program waits, and does not care what becomes of the file.
    thread::sleep(Duration::from_secs(2));
    assert!(!ran.exists(), "it ran before it was started");
    fs::write(bench.config(), "{").unwrap();
    bench.done(&["start", "web"]);
    assert_eq!(fs::read_to_string(&told).unwrap(), "one\ntwo\nthree\nfour\n");
    assert!(bench.log().contains("poststart hook"), "{}", bench.log());
    until("it does not run", || ran.exists());

    // Pages are there up to the limit.
    let pages = "busybox fallocate -l 4194304 /huge/x && echo some; busybox fallocate -l 8388608 /huge/y 2>/dev/null || echo no more";
    assert_eq!(
        bench.does(&["exec", "web", "sh", "-c", pages]).out,
        "some\nno more\n"
    );

    let own = bench
        .does(&["exec", "web", "grep", " /pages hugetlbfs ", "/proc/mounts"])
        .out;
    assert!(own.contains("pagesize=2M") && own.contains("nosuid"), "{own}");

    let seen = bench
        .does(&[
            "exec",
            "web",
            "sh",
            "-c",
            "ls /data/below; echo and; ls /top/below",
        ])
        .out;
    assert_eq!(seen, "file\nand\n");

    // What the host mounts now is seen where that was asked for.
    let late = Mounted::new("tmpfs", data.0.join("late"));
    fs::write(late.0.join("file"), "mounted later\n").unwrap();
    until("a later mount is not seen", || {
        bench.does(&["exec", "web", "cat", "/data/late/file"]).out == "mounted later\n"
    });
    assert_eq!(bench.does(&["exec", "web", "ls", "/apart/late"]).out, "");
    drop(late);

    bench.done(&["kill", "web", "KILL"]);
    until("it does not stop", || bench.state()["status"] == "stopped");
    bench.done(&["delete", "web"]);
    assert_eq!(
        fs::read_to_string(&told).unwrap(),
        "one\ntwo\nthree\nfour\nfive\nsix\n"
    );
    assert!(bench.log().contains("poststop hook"), "{}", bench.log());
    bench.refused(&["state", "web"], "does not exist");
    // What was there before is there still, and the id is free.
    assert_eq!(fs::read_to_string(&ran).unwrap(), "ran\n");
    assert!(data.0.join("late").is_dir() && bench.config().exists());
    until("something is left of the container", is_nothing_left);
}
